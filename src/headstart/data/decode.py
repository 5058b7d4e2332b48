"""From encoded images to pixels: one image at its own size or cropped and resized, and whole sets in parallel."""

from __future__ import annotations

import io
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from headstart.data.cache import remembered
from headstart.data.encoded import Encoded, EncodedSet
from headstart.data.images import ImageSet, OnBadImage
from headstart.errors import DataError, OutOfMemory

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

LOG = logging.getLogger(__name__)

FIRST_SECONDS, NEXT_SECONDS = 2.0, 10.0  # until the first word on how far a set is decoded, and between two
CHUNK = 1024  # rows that are read one after the other, and then decoded in parallel
SHOWN = 224 / 256  # side of the central square that validation sees, as a share of the shorter side
DEEP_MODES = ("I", "F")  # PIL clips these to 8 bits instead of scaling them; so are their 16-bit variants, I;16


# -- one image --------------------------------------------------------------------------------------------------------


def whole(encoded: Encoded) -> np.ndarray:
    """An image at its own size, (H, W, 1 or 3) uint8, grey if it is stored as grey."""
    with _opened(encoded) as image:
        pixels = np.asarray(_upright(image) if image.mode == "L" else _rgb(_upright(image)))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def centre(width: int, height: int) -> Box:
    """The central square that validation sees, as resizing the shorter side to 256 and cutting out 224 leaves it."""
    side = min(width, height) * SHOWN
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def resized(encoded: Encoded, size: int, choose: Callable[[int, int], Box] = centre) -> np.ndarray:
    """A part of an image, (size, size, 3) uint8, bilinear with antialiasing.

    Args:
        choose: from width and height of the upright image to the part.
    """
    with _opened(encoded) as image:
        width, height = reversed(image.size) if _orientation(image) > 4 else image.size  # turned by a quarter
        left, top, right, bottom = choose(width, height)
        needed = max(size / (right - left), size / (bottom - top))
        if needed < 1 and image is not encoded:  # JPEG decodes to 1/2, 1/4 or 1/8 in a fraction of the time
            image.draft(None, (math.ceil(image.width * needed), math.ceil(image.height * needed)))
        upright = _rgb(_upright(image))
        x, y = upright.width / width, upright.height / height
        part = (left * x, top * y, min(right * x, upright.width), min(bottom * y, upright.height))
        return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR, part))


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    """The picture; from a file, its pixels are decoded later.

    Raises:
        ValueError: no image, a single pixel, or more than 8 bits per channel. PIL raises further types for damaged
            files, and DecompressionBombError for pictures that are too large to be true.
    """
    if encoded is None:
        raise ValueError("no image there")
    if isinstance(encoded, (Tensor, np.ndarray)):
        image = Image.fromarray(_eight_bits(encoded))
    elif isinstance(encoded, Image.Image):
        image = encoded
    else:
        image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    try:
        if image.size == (1, 1):
            raise ValueError("it is a single pixel")
        if image.mode.startswith(DEEP_MODES):
            raise ValueError(f"it has more than 8 bits per channel, mode {image.mode}")
        yield image
    finally:
        if image is not encoded:
            image.close()


def _orientation(image: Image.Image) -> int:
    """1 to 8, as cameras note it; above 4, width and height change places."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(pixels: Tensor | np.ndarray) -> np.ndarray:
    """A tensor (C, H, W), uint8 or float in [0, 1], or an array (H, W, C) or (H, W) of the same, as PIL takes it."""
    array = pixels.detach().cpu().movedim(0, -1).numpy() if isinstance(pixels, Tensor) else pixels
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ValueError(f"it has shape {tuple(pixels.shape)}; expected tensors (C, H, W) or arrays (H, W, C)")
    if np.issubdtype(array.dtype, np.floating):
        if np.isnan(array).any():
            raise ValueError("it has NaN pixels")
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"its pixels range from {array.min():g} to {array.max():g}, not in [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"its pixels are {array.dtype}; expected uint8, or float in [0, 1]")
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


# -- a set ------------------------------------------------------------------------------------------------------------


def decode(data: EncodedSet, on_bad_image: OnBadImage = "error", n: int | None = None) -> ImageSet:
    """A set whose images have one size, or its first n, at that size; grey if all are.

    The whole set is kept on disk for the next time, where its content can be told from another's.
    """
    rows, key = torch.arange(len(data))[:n], data.fingerprint() if n is None else None
    return remembered(f"{key}-{on_bad_image}" if key else None, data.name, lambda: _decode(data, rows, on_bad_image))


def decode_centres(data: EncodedSet, rows: Tensor, size: int, on_bad_image: OnBadImage = "error") -> ImageSet:
    """The central squares of some rows, size x size, RGB."""
    return remembered(None, data.name, lambda: _decode(data, rows, on_bad_image, partial(resized, size=size)))


def attempt(encoded: Encoded, form: Callable[[Encoded], np.ndarray]) -> np.ndarray | str:
    """The pixels that ``form`` makes, or why there are none."""
    try:
        return form(encoded)
    except Exception as error:  # decoders of damaged images raise of every kind: SyntaxError, struct.error, ...
        return " ".join(str(error).split()) or type(error).__name__


def unreadable(data: EncodedSet, row: int, why: str) -> DataError:
    """The error for an image that is not to be skipped."""
    return DataError(
        f"{data.name}: the image {data.place(row)} cannot be read ({why}); repair or remove it, "
        "or leave it out of training by on_bad_image skip"
    )


def left_out(data: EncodedSet, bad: Collection[int], total: int) -> str:
    """A line on the images that were skipped."""
    return f"{len(bad)} of {total} images cannot be read and are left out, the first {data.place(min(bad))}"


def _decode(
    data: EncodedSet, rows: Tensor, on_bad_image: OnBadImage, form: Callable[[Encoded], np.ndarray] = whole
) -> tuple[ImageSet, str]:
    """Some rows, and a line on those that were left out, empty if none was. Reads in order, decodes in parallel."""
    pixels: np.ndarray | None = None
    first, grey = 0, True
    bad: dict[int, str] = {}
    tell = _Pace(data.name, len(rows))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(rows), CHUNK):
            chunk = rows[begin : begin + CHUNK].tolist()
            images = pool.map(partial(attempt, form=form), [data.read(row) for row in chunk])
            for place, (row, image) in enumerate(zip(chunk, images, strict=True), begin):
                if isinstance(image, str):
                    if on_bad_image == "error":
                        raise unreadable(data, row, image)
                    bad[row] = image
                    continue
                if pixels is None:
                    pixels, first = _room(len(rows), image.shape[:2], data.name), row
                if image.shape[:2] != pixels.shape[1:3]:
                    raise _two_sizes(data, row, image.shape[:2], first, pixels.shape[1:3])
                pixels[place] = image
                grey &= image.shape[2] == 1
            tell(begin + len(chunk))
    if pixels is None:
        raise DataError(f"{data.name}: none of {len(rows)} images can be read ({next(iter(bad.values()))})")
    kept = torch.tensor([row not in bad for row in rows.tolist()])
    decoded = torch.from_numpy(pixels[..., :1] if grey else pixels)
    decoded = (decoded[kept] if bad else decoded).contiguous()
    note = left_out(data, bad, len(rows)) if bad else ""
    return ImageSet(decoded, data.labels[rows[kept]], data.classes, data.name), note


class _Pace:
    """Says how far a set of n images is decoded: soon, and then every few seconds; of small ones nothing."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.began = time.monotonic()
        self.due = self.began + FIRST_SECONDS

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done < self.n and now >= self.due:
            self.due = now + NEXT_SECONDS
            rate = done / max(now - self.began, 1e-9)
            left = math.ceil((self.n - done) / rate)
            LOG.info("%s: %d of %d images decoded, %.0f a second, %d s left", self.name, done, self.n, rate, left)


def _room(n: int, size: tuple[int, ...], name: str) -> np.ndarray:
    """An array for n RGB images of a size; refused if they exceed the memory that is free."""
    shape = (n, *size, 3)
    needed, free = math.prod(shape) / 2**30, available_memory() / 2**30
    if needed > free:
        raise OutOfMemory(
            f"{name}: {n} decoded images of {_size(size)} need {needed:.1f} GB of memory, {free:.1f} GB are free; "
            "image_size streams the training part, n evaluates the first images only"
        )
    return np.empty(shape, np.uint8)


def available_memory() -> float:
    """Bytes that programs may still take; infinity where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return math.inf


def _two_sizes(data: EncodedSet, row: int, size: Sequence[int], first: int, first_size: Sequence[int]) -> DataError:
    return DataError(
        f"{data.name}: the image {data.place(row)} is {_size(size)}, the image {data.place(first)} is "
        f"{_size(first_size)}; image_size, such as 224, crops all to one size"
    )


def _size(size: Sequence[int]) -> str:
    height, width = size
    return f"{width}x{height}"
