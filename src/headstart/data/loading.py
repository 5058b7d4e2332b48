"""What training and evaluation ask for: the parts of a training set, a test set in memory, a loader."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import torch
from torch.utils.data import Dataset

from headstart.data.decode import decode, decode_centres
from headstart.data.encoded import EncodedSet, ItemSet
from headstart.data.images import HeldOut, ImageSet, OnBadImage, divide, from_arrays
from headstart.data.resident import ResidentLoader
from headstart.data.sources import Split, find
from headstart.data.streamed import StreamedLoader, StreamedSet
from headstart.errors import SettingError

Found: TypeAlias = ImageSet | EncodedSet
TrainingSet: TypeAlias = ImageSet | StreamedSet
Loader: TypeAlias = ResidentLoader | StreamedLoader

MOST_WORKERS = 16  # unless asked for more


def load(
    name: str,
    split: Split,
    on_bad_image: OnBadImage = "error",
    *,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """One split of a data set by name, decoded into memory; see ``find`` and ``in_memory``."""
    return in_memory(find(name, split, image_column, label_column), image_size, on_bad_image=on_bad_image)


def from_python(data: Any, name: str = "python") -> Found:
    """An ImageSet as it is, images and labels (see ``from_arrays``), or a map-style ``torch.utils.data.Dataset``."""
    if isinstance(data, (ImageSet, EncodedSet)):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data)
    if isinstance(data, Dataset) or (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return ItemSet(data, name)
    raise SettingError(
        f"data is {type(data).__name__}; give a name, (images, labels), an ImageSet or a map-style Dataset"
    )


def in_memory(
    data: Found, image_size: int | None = None, n: int | None = None, on_bad_image: OnBadImage = "error"
) -> ImageSet:
    """The images of a set, or its first n: at their one size, or the central squares at ``image_size``.

    Raises:
        DataError: images that cannot be read (unless they are to be skipped), or of different sizes.
        OutOfMemory: they need more memory than is free.
        SettingError: ``image_size`` for images that are decoded already at another size.
    """
    if isinstance(data, ImageSet):
        _check_in_memory(data, image_size)
        return data if n is None else data.take(slice(0, n), data.name)
    if image_size is None:
        return decode(data, on_bad_image, n)
    return decode_centres(data, torch.arange(len(data))[:n], image_size, on_bad_image)


def divided(
    data: Found,
    val_size: int,
    *,
    samples: int | None = None,
    image_size: int | None = None,
    on_bad_image: OnBadImage = "error",
    which: HeldOut = "random",
) -> tuple[TrainingSet, ImageSet]:
    """The training part and the validation part of a training set; never overlapping.

    With ``image_size`` the training part is streamed, and the validation part holds central squares in memory.

    Args:
        val_size: images of the validation part.
        samples: take the first so many images alone; default all.
        which: images of the validation part, random or the last.

    Raises:
        SettingError: fewer images than that.
        UserError: see ``in_memory``.
    """
    if isinstance(data, ImageSet) or image_size is None:
        images = in_memory(data, image_size, on_bad_image=on_bad_image)
        return images.take(slice(0, _count(images, samples)), images.name).split(val_size, which)
    train, val = divide(_count(data, samples), val_size, data.name, which)
    streamed = StreamedSet(data, train, image_size, on_bad_image, f"{data.name} (training part)")
    return streamed, decode_centres(data, val, image_size, on_bad_image)


def make_loader(
    data: TrainingSet,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    pad: int = 0,
    drop_last: bool = False,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """The batches of one process: resident on the device, or streamed.

    Args:
        batch_size: samples over all processes.
        pad: random crop shift in pixels, of a resident set.
        workers: decoding processes of a streamed set; None for one per core that falls to this process.
    """
    shared: dict[str, Any] = {
        "batch_size": batch_size // world_size,
        "seed": seed,
        "device": device,
        "rank": rank,
        "world_size": world_size,
        "drop_last": drop_last,
    }
    if isinstance(data, ImageSet):
        return ResidentLoader(data, pad=pad, **shared)
    return StreamedLoader(data, workers=default_workers() if workers is None else workers, **shared)


def default_workers(devices: int = 1) -> int:
    """Decoding processes for each of the devices of this machine: they share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores // devices))


def _count(data: Found, samples: int | None) -> int:
    if samples is not None and samples > len(data):
        raise SettingError(f"samples is {samples}; {data.name} has {len(data)} images")
    return samples or len(data)


def _check_in_memory(data: ImageSet, image_size: int | None) -> None:
    if image_size is not None and data.shape[1:] != (image_size, image_size):
        height, width = data.shape[1:]
        raise SettingError(
            f"image_size is {image_size}, but {data.name} comes at {width}x{height}; leave image_size out"
        )
