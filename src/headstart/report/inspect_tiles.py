"""Pictures in rows and columns as one array, so that a figure holds one image and not a hundred axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.report.colours import NEGATIVE, POSITIVE

Array = NDArray[np.float64]
GAP = 0.08  # between pictures, of their size
_HEAT = np.array([[0.0, 0.0, 0.0], [0.85, 0.25, 0.05], [1.0, 0.85, 0.2]])  # dark, orange, yellow


def tiled(rows: Sequence[Sequence[Array | None]]) -> Array:
    """One picture (H, W, 4) of pictures (h, w, 4) of one size; transparent between them and where there is none."""
    height, width = next(tile.shape[:2] for row in rows for tile in row if tile is not None)
    gap = max(1, round(GAP * max(height, width)))
    columns = max(len(row) for row in rows)
    whole = np.zeros((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if tile is not None:
                top, left = i * (height + gap), j * (width + gap)
                whole[top : top + height, left : left + width] = tile
    return whole


def centres(count: int, size: int, other: int) -> list[float]:
    """Where the middles of ``count`` pictures of this size are along one side; ``other`` is their size on the other."""
    gap = max(1, round(GAP * max(size, other)))
    return [i * (size + gap) + (size - 1) / 2 for i in range(count)]


def image(values: Any) -> Array:
    """An image (H, W) or (H, W, 3) in [0, 1] as (H, W, 4)."""
    pixels = np.clip(np.asarray(values, dtype=float), 0, 1)
    colour = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    return np.concatenate([colour, np.ones((*colour.shape[:2], 1))], axis=2)


def perturbation(values: Any, scale: float) -> Array:
    """A signed perturbation: grey images blue where darkened and orange where brightened, colour around mid-grey."""
    relative = np.clip(np.asarray(values, dtype=float) / scale, -1, 1)
    if relative.ndim == 3:
        return image((relative + 1) / 2)
    ends = np.where(relative[..., None] < 0, NEGATIVE, POSITIVE) / 255
    return image(1 + abs(relative)[..., None] * (ends - 1))


def heated(values: Any, heat: Any) -> Array:
    """An image, faded to grey, under a map of heat (H, W) in [0, 1]: orange to yellow where the network looks."""
    base, strength = image(values)[..., :3], np.clip(np.asarray(heat, dtype=float), 0, 1)
    grey = np.repeat(base.mean(2, keepdims=True), 3, axis=2)
    places = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(strength, places, _HEAT[:, k]) for k in range(3)], axis=2)
    opacity = 0.75 * strength[..., None]
    return image((1 - opacity) * grey + opacity * colour)
