"""What the networks here have in common: pooled features, and a linear layer that makes logits of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PooledNetwork(nn.Module):
    """Features (B, D) of images, and logits (B, K) of features.

    Args:
        mirrored: in evaluation mode, take the mean of the features of the image and of its mirror image, so that the
            logits are those means as well and the same for both. A pass there is of twice the images; in training
            nothing changes, where random flips are in the data.
    """

    def __init__(self, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored

    def features(self, x: Tensor) -> Tensor:
        """Pooled penultimate features (B, D) of the images as they are."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.mirrored:
            return self.logits(self.features(x))
        both = self.features(torch.cat([x, x.flip(3)]))  # one pass: layers that occur twice could not be folded
        return self.logits((both[: x.shape[0]] + both[x.shape[0] :]) / 2)
