"""Batches cut on the device from a set that lives there as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.data.images import ImageSet

SPREAD = 0x9E3779B1  # odd, its bits evenly mixed: neighbouring seeds end up far apart


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: images (B, C, H, W) fp32 in [0, 1], channels-last; labels (B,); stable rows (B,); geometry (B, 3)."""

    x: Tensor
    y: Tensor
    index: Tensor
    geometry: Tensor | None


def generator(seed: int, epoch: int, rank: int) -> torch.Generator:
    """The random numbers of one epoch on one process."""
    return torch.Generator().manual_seed((seed * SPREAD + (epoch << 16) + rank) % 2**32)  # it ignores more than 32 bits


class ResidentLoader:
    """Shuffled, augmented batches of a set held on the device.

    Order and augmentation of an epoch follow from (seed, epoch) alone, so a run resumes at any batch. They are
    drawn on the CPU, so that every device sees the same batches. With several processes, each keeps a fixed share.

    Args:
        pad: crop shift in pixels; a random crop of the zero-padded image and a random flip; 0 for no augmentation.
    """

    rescales = False

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        pad: int = 4,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.batch_size, self.pad, self.seed, self.rank = batch_size, pad, seed, rank
        shard = slice(rank, len(data) - len(data) % world_size, world_size)
        self.images = F.pad(data.images[shard], (0, 0, pad, pad, pad, pad)).to(self.device)
        self.labels = data.labels[shard].to(self.device)
        self.rows = torch.arange(len(data))[shard].to(self.device)
        self.shape = data.shape
        self.samples = len(self.labels)
        self.batches = self.samples // batch_size if drop_last else -(-self.samples // batch_size)
        self._height = torch.arange(self.shape[1], device=self.device)
        self._width = torch.arange(self.shape[2], device=self.device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch ``start`` on."""
        draw = generator(self.seed, epoch, self.rank)
        order = torch.randperm(self.samples, generator=draw)
        geometry = torch.randint(0, 2 * self.pad + 1, (self.samples, 3), generator=draw)
        geometry[:, 2] = torch.randint(0, 2, (self.samples,), generator=draw)
        order, geometry = order.to(self.device), geometry.to(self.device)
        for b in range(start, self.batches):
            rows = slice(b * self.batch_size, (b + 1) * self.batch_size)
            yield self._cut(order[rows], geometry[rows])

    def _cut(self, rows: Tensor, geometry: Tensor) -> Batch:
        if self.pad:
            top, left, flipped = geometry.unbind(1)
            height = top[:, None] + self._height
            width = torch.where(flipped[:, None] == 1, self._width.flip(0), self._width) + left[:, None]
            pixels = self.images[rows[:, None, None], height[:, :, None], width[:, None, :]]
        else:
            pixels = self.images[rows]
        x = pixels.permute(0, 3, 1, 2).float().div_(255)  # memory stays (B, H, W, C): channels-last
        return Batch(x, self.labels[rows], self.rows[rows], geometry if self.pad else None)
