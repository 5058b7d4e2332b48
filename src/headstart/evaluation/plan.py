"""What is measured on which images: all that decides a result besides the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.core.threat import ThreatModel
from headstart.errors import DataError


@dataclass(frozen=True)
class Plan:
    """What decides the result besides model and images: the settings, with nothing left open."""

    suite: str
    threat: ThreatModel
    batch_size: int
    seed: int
    search_precision: str


@dataclass(frozen=True)
class Images:
    """N labelled images, from which batches go to the device.

    Attributes:
        x: (N, C, H, W), uint8 or floating point in [0, 1].
        y: int64 (N,).

    Raises:
        DataError: images or labels that are not so.
    """

    x: Tensor
    y: Tensor
    device: torch.device

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
            shape = tuple(x.shape)
            raise DataError(f"images are {x.dtype} of shape {shape}; they must be uint8 or floats (N, C, H, W)")
        if y.dtype != torch.int64 or y.shape != x.shape[:1]:
            raise DataError(f"labels are {y.dtype} of shape {tuple(y.shape)}; they must be int64 ({len(x)},)")
        if len(x) == 0:
            raise DataError("there are no images to evaluate on")
        if int(y.min()) < 0:
            raise DataError(f"label {int(y.min())} is negative; labels count from 0")
        if not x.is_floating_point():
            return
        low, high = (bound.item() for bound in x.aminmax())  # both NaN where any pixel is
        if low != low:
            row = int(x.isnan().flatten(1).any(1).nonzero()[0])
            raise DataError(f"image {row} has pixels that are not numbers")
        if low < 0 or high > 1:
            raise DataError(
                f"pixels lie between {low:g} and {high:g}; they must lie in [0, 1], with any normalisation inside the "
                "model (or be uint8)"
            )

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in fp32 and labels (B,), on the device."""
        images = self.x[rows].to(self.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return images.contiguous(), self.y[rows].to(self.device)


def dealt(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Batches of rows (N,), in their order: none larger than ``size``, none more than one row larger than another.

    Where one batch does not suffice their number is even, so that two processes have as much to do: 430 rows are twice
    215 and not 250 and 180 (of single rows there may be an odd number). It depends on nothing else, as the random
    numbers of a batch do on its place.
    """
    count = math.ceil(len(rows) / size)
    if count > 1 and len(rows) > count:
        count += count % 2
    return torch.tensor_split(rows, count) if count else ()
