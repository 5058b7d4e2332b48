"""Images as arrays for drawing: small, and with the channels where a picture has them."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIZE = 64  # pixels on the longer side; larger images are averaged down to it


def thumbnails(images: Tensor) -> Tensor:
    """Images (B, C, H, W) at no more than ``SIZE`` pixels, on the CPU."""
    longer = max(images.shape[-2:])
    if longer > SIZE:
        height, width = (max(1, round(side * SIZE / longer)) for side in images.shape[-2:])
        images = F.interpolate(images.float(), (height, width), mode="area")
    return images.detach().float().cpu()


def channels_last(images: Tensor) -> NDArray[np.float32]:
    """(B, C, H, W) as (B, H, W), or (B, H, W, 3) in colour."""
    moved: NDArray[np.float32] = images.permute(0, 2, 3, 1).numpy()
    return moved[..., 0] if moved.shape[-1] == 1 else moved
