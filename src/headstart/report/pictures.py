"""Small pictures of images and perturbations, embedded in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.report.colours import NEGATIVE, POSITIVE

_PIXEL_ART = 64  # below this width, show pixels as squares instead of a blur


@dataclass(frozen=True)
class Picture:
    """What an ``<img>`` says: the file as a data URL, its size in pixels, and a description."""

    src: str
    width: int
    height: int
    alt: str

    @property
    def pixelated(self) -> bool:
        """Whether it is so small that its pixels should stay visible."""
        return self.width < _PIXEL_ART


def picture(values: Any, alt: str) -> Picture:
    """An image (H, W) or (H, W, 3) in [0, 1], or (H, W, 4) with its opacity."""
    pixels: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    file = io.BytesIO()
    Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return Picture(f"data:image/png;base64,{data}", width, height, alt)


def perturbation(values: Any, epsilon: float, alt: str) -> Picture:
    """A signed perturbation, where zero is neutral and epsilon has full strength.

    Grey images (H, W): blue darkens, orange brightens, transparent leaves alone. Colour images (H, W, 3): each
    channel around mid-grey.
    """
    relative = np.clip(np.asarray(values, dtype=np.float64) / epsilon, -1, 1)
    if relative.ndim == 3:
        return picture((relative + 1) / 2, alt)
    ends = np.where(relative[..., None] < 0, NEGATIVE, POSITIVE) / 255
    return picture(np.concatenate([ends, abs(relative)[..., None]], axis=-1), alt)
