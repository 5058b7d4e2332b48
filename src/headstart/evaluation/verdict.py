"""What an attack's result is worth: projected onto the threat model and classified in strict float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.attacks.scores import margin
from headstart.core.threat import ThreatModel


@dataclass(frozen=True)
class Verdict:
    """The model's answers to B images.

    Attributes:
        right: bool (B,), the label is predicted.
        margin: fp32 (B,), max_{j != y} z_j - z_y; infinite where a logit is not finite.
        predicted: int64 (B,), the class of the largest logit.
        images: fp32 (B, C, H, W).
    """

    right: Tensor
    margin: Tensor
    predicted: Tensor
    images: Tensor

    def replace(self, rows: Tensor, other: Verdict) -> None:
        """Put another verdict in the given rows."""
        for name in ("right", "margin", "predicted", "images"):
            getattr(self, name)[rows] = getattr(other, name)


@torch.no_grad()
def judge(model: nn.Module, images: Tensor, y: Tensor) -> Verdict:
    """The verdict on images (B, C, H, W) with labels (B,)."""
    return verdict_of(model(images), images, y)


def verdict_of(logits: Tensor, images: Tensor, y: Tensor) -> Verdict:
    """The verdict that logits (B, K) are."""
    logits = logits.float()
    # A model without an answer is not right, whichever class argmax makes of it.
    answered = logits.isfinite().all(1)
    predicted = logits.argmax(1)
    gap = margin(logits, y).masked_fill(~answered, float("inf"))
    return Verdict(answered & (predicted == y), gap, predicted, images)


def inside(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> Tensor:
    """``x_adv`` projected onto the threat model around ``x``; both (B, C, H, W)."""
    delta = (x_adv - x).nan_to_num()  # a pixel that is not a number is no perturbation
    return x + threat.box(x, threat.project(delta))
