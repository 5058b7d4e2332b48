"""Batches decoded while training goes on, from sets that do not fit in memory or whose images differ in size."""

from __future__ import annotations

import logging
import math
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.data.decode import Box, attempt, left_out, resized, unreadable
from headstart.data.encoded import SHUFFLE_BUFFER, EncodedSet
from headstart.data.images import OnBadImage
from headstart.data.resident import Batch, generator
from headstart.errors import DataError, OutOfMemory

LOG = logging.getLogger(__name__)

AREA = (0.08, 1.0)  # of a random crop, as a share of the image
ASPECT = (3 / 4, 4 / 3)  # of a random crop, width to height
ATTEMPTS = 10  # draws until a crop lies inside the image

Decoded = tuple[Tensor, dict[int, str]]
"""Images (B, size, size, 3) uint8, and why images are missing by their place in the batch."""


@dataclass(frozen=True)
class StreamedSet:
    """Some rows of an encoded set, to be cropped at random in every epoch and resized to size x size, RGB."""

    encoded: EncodedSet
    rows: Tensor
    size: int
    on_bad_image: OnBadImage
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.encoded.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return 3, self.size, self.size


class StreamedLoader:
    """Shuffled batches of random crops, decoded by worker processes ahead of the training.

    Order, crops and flips of an epoch follow from (seed, epoch) and the row alone: a run resumes at any batch, with
    any number of workers. With several processes, each keeps a fixed share of the rows. Images that cannot be read
    stop the run, or are missing from their batches.

    Args:
        workers: decoding processes; 0 decodes in this one.
    """

    pad = 0
    rescales = True

    def __init__(
        self,
        data: StreamedSet,
        batch_size: int,
        *,
        workers: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.data, self.batch_size, self.workers = data, batch_size, workers
        self.device, self.seed, self.rank = torch.device(device), seed, rank
        self.rows = torch.arange(len(data))[rank : len(data) - len(data) % world_size : world_size]
        self.labels = data.encoded.labels[data.rows].to(self.device)
        groups = data.encoded.groups
        self._groups = None if groups is None else torch.unique(groups[data.rows[self.rows]], return_inverse=True)[1]
        self.shape, self.samples = data.shape, len(self.rows)
        self.batches = self.samples // batch_size if drop_last else -(-self.samples // batch_size)
        self._bad: set[int] = set()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch ``start`` on."""
        batches = torch.split(self.rows[self._order(epoch)], self.batch_size)[start : self.batches]
        known = len(self._bad)
        for rows, decoded in zip(batches, self._decoded(batches, epoch), strict=True):
            yield self._batch(rows, *decoded)
        if len(self._bad) > known:
            LOG.warning("%s: %s", self.data.name, left_out(self.data.encoded, self._bad, len(self.data)))

    def _order(self, epoch: int) -> Tensor:
        """Everything shuffled, or, where neighbours are read together, groups and then the rows of a few groups."""
        draw = generator(self.seed, epoch, self.rank)
        if self._groups is None:
            return torch.randperm(self.samples, generator=draw)
        places = torch.randperm(int(self._groups.max()) + 1, generator=draw)
        by_group = places[self._groups].argsort(stable=True)
        window = torch.arange(self.samples) // SHUFFLE_BUFFER
        within = torch.rand(self.samples, generator=draw, dtype=torch.float64)
        return by_group[(window + within).argsort()]

    def _decoded(self, batches: tuple[Tensor, ...], epoch: int) -> Iterator[Decoded]:
        loader = DataLoader(
            _Crops(self.data, f"{self.seed} {epoch}"),
            sampler=[rows.tolist() for rows in batches],  # one sample of this loader is a batch of ours
            batch_size=None,
            num_workers=min(self.workers, len(batches)),
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # the default one would move the random state of the run
        )
        try:
            yield from loader
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise OutOfMemory(
                f"a process that decodes images was killed ({str(error).splitlines()[0]}); it may lack memory or "
                f"shared memory (/dev/shm): try fewer workers than {self.workers}"
            ) from error

    def _batch(self, rows: Tensor, images: Tensor, bad: dict[int, str]) -> Batch:
        if bad:
            places = {int(self.data.rows[rows[place]]): why for place, why in bad.items()}
            if self.data.on_bad_image == "error":
                raise unreadable(self.data.encoded, *next(iter(places.items())))
            if len(bad) == len(rows):
                raise DataError(f"{self.data.name}: no image of a whole batch can be read ({next(iter(bad.values()))})")
            self._bad |= places.keys()
            kept = torch.tensor([place not in bad for place in range(len(rows))])
            rows, images = rows[kept], images[kept]
        index = rows.to(self.device, non_blocking=True)
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)  # stays channels-last
        return Batch(x, self.labels[index], index, None)


class _Crops(Dataset[Decoded]):
    """Item ``[0, 5, 2]`` holds crops of those three rows; runs in the workers."""

    def __init__(self, data: StreamedSet, epoch: str) -> None:
        self.data, self.epoch = data, epoch

    def __getitem__(self, rows: list[int]) -> Decoded:
        size = self.data.size
        images, bad = np.zeros((len(rows), size, size, 3), np.uint8), {}
        for place, row in enumerate(rows):
            crop = partial(random_crop, draw=random.Random(f"{self.epoch} {row}"), size=size)
            made = attempt(self.data.encoded.read(int(self.data.rows[row])), crop)
            if isinstance(made, str):
                bad[place] = made
            else:
                images[place] = made
        return torch.from_numpy(images), bad


def random_crop(encoded: Any, size: int, draw: random.Random) -> np.ndarray:
    """A random part of an image, mirrored or not, (size, size, 3) uint8: RandomResizedCrop and a flip."""
    mirrored = draw.random() < 0.5
    pixels = resized(encoded, size, partial(random_box, draw=draw))
    return pixels[:, ::-1] if mirrored else pixels


def random_box(width: int, height: int, draw: random.Random) -> Box:
    """A rectangle of random area, aspect and place inside an image; the largest of near aspect if none fits."""
    for _ in range(ATTEMPTS):
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * draw.random())
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** draw.random()  # even in its logarithm
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.random() * (width - w + 1)), int(draw.random() * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    x, y = (width - w) / 2, (height - h) / 2
    return x, y, x + w, y + h


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM may reach the whole process group; the run decides when it stops, and ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
