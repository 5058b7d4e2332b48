"""Decoded images with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from headstart.errors import DataError, SettingError

OnBadImage = Literal["error", "skip"]
HeldOut = Literal["random", "last"]


class Unlabelled(DataError):
    """A split without labels."""


class NoSuchSplit(DataError):
    """A data set without a split of that kind."""


@dataclass(frozen=True)
class ImageSet:
    """Images and labels of one split, in memory.

    Attributes:
        images: (N, H, W, C) uint8, C is 1 or 3.
        labels: (N,) int64, in [0, K).
        classes: names of the K classes.
        name: what to call the set in records and messages.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[3] not in (1, 3):
            shape = tuple(self.images.shape)
            raise DataError(f"{self.name}: images are {self.images.dtype} {shape}; expected uint8 (N, H, W, 1 or 3)")
        if len(self.images) != len(self.labels):
            raise DataError(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels")
        check_labels(self.labels, self.classes, self.name)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, h, w, c = self.images.shape
        return c, h, w

    def take(self, rows: Tensor | slice, name: str) -> ImageSet:
        """A subset under another name."""
        return ImageSet(self.images[rows], self.labels[rows], self.classes, name)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) uint8 and labels, as evaluation takes them."""
        return self.images.permute(0, 3, 1, 2), self.labels

    def checksum(self) -> str:
        """Fingerprint of pixels and labels."""
        digest = xxhash.xxh3_128(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def split(self, held_out: int, which: HeldOut = "random") -> tuple[ImageSet, ImageSet]:
        """Training and validation part, see ``divide``."""
        train, val = divide(len(self), held_out, self.name, which)
        return self.take(train, f"{self.name} (training part)"), self.take(val, f"{self.name} (validation part)")


def check_labels(labels: Tensor, classes: tuple[str, ...], name: str) -> None:
    """Refuse an empty split, and labels outside the classes.

    Raises:
        Unlabelled: every label is -1, as in test sets whose labels are kept secret.
    """
    if len(labels) == 0:
        raise DataError(f"{name}: the split is empty; it needs at least one image")
    low, high = int(labels.min()), int(labels.max())
    if low == high == -1:
        raise Unlabelled(f"{name}: every label is -1, so the labels are not public; choose another split or set")
    if low < 0 or high >= len(classes):
        bad = low if low < 0 else high
        row = int((labels == bad).nonzero()[0])
        raise DataError(f"{name}: label {bad} in row {row}; allowed: 0 to {len(classes) - 1}")


def divide(samples: int, held_out: int, name: str, which: HeldOut = "random") -> tuple[Tensor, Tensor]:
    """Rows of the training and of the validation part; the same are held out whatever the seed of the run.

    Args:
        which: random rows, or the last ones.
    """
    if not 0 < held_out < samples:
        raise SettingError(f"val_size is {held_out}; {name} has {samples} images, so 1 to {samples - 1}")
    if which == "last":
        rows = torch.arange(samples)
        return rows[:-held_out], rows[-held_out:]
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    return order[held_out:].sort().values, order[:held_out].sort().values


def from_arrays(x: Tensor | np.ndarray, y: Tensor | Sequence[int], name: str = "tensors") -> ImageSet:
    """An ImageSet from Python: images (N, C, H, W) float in [0, 1] or uint8, labels (N,).

    Raises:
        DataError: NaN pixels, pixels outside [0, 1], a wrong shape or labels that are not class indices.
    """
    images = torch.as_tensor(x).detach().cpu()
    try:
        labels = torch.as_tensor(y).detach().cpu()
    except (TypeError, ValueError) as error:  # such as names
        raise DataError(f"{name}: labels must be whole numbers, 0, 1, 2, ... ({error})") from error
    _check_form(images, name)
    if labels.is_floating_point() or labels.dim() != 1:
        raise DataError(f"{name}: labels are {labels.dtype} {tuple(labels.shape)}; expected (N,) integers")
    if images.is_floating_point() and len(images):
        if images.isnan().any():
            row = int(images.flatten(1).isnan().any(1).nonzero()[0])
            raise DataError(f"{name}: image {row} has NaN pixels; remove or repair it")
        low, high = float(images.min()), float(images.max())
        if low < 0 or high > 1:
            raise DataError(f"{name}: pixels range from {low:g} to {high:g}; they must lie in [0, 1] (divide by 255?)")
    if images.is_floating_point():
        images = (images * 255).round().to(torch.uint8)
    return ImageSet(images.permute(0, 2, 3, 1).contiguous(), labels.long(), numbered(labels), name)


def _check_form(images: Tensor, name: str) -> None:
    """Refuse a type or a shape in the words of who gave it."""
    shape = tuple(images.shape)
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise DataError(f"{name}: images are {images.dtype} {shape}; expected uint8, or floats in [0, 1]")
    if images.dim() != 4 or shape[1] not in (1, 3):
        last = images.dim() == 4 and shape[3] in (1, 3)
        remedy = "; channels come before height and width: permute(0, 3, 1, 2)" if last else ""
        raise DataError(
            f"{name}: images are {images.dtype} of shape {shape}; expected (N, C, H, W) with C 1 or 3{remedy}"
        )


def numbered(labels: Tensor) -> tuple[str, ...]:
    """Names for the classes of labels that come without."""
    return tuple(str(k) for k in range(int(labels.max()) + 1)) if len(labels) else ()
