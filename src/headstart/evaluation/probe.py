"""What one batch shows of a model before any attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.attacks.scores import cross_entropy, input_gradient, margin

ROUNDING = 1e-4
"""Differences of logits below this share of the largest are rounding; batch sizes and layouts alone make 1e-6."""


@dataclass(frozen=True)
class Probe:
    """The model's answers to B images; B of 1 shows less.

    Attributes:
        in_training: types of the modules that stay in training mode.
        logits: fp32 (B, K).
        random: a second forward pass of the same images gave others.
        alone: the logits of an image do not depend on the other images of its batch, and are not random.
        watched: other logits while autograd records, though they are not random.
        blind, saturated: shares of the images in which the gradient of the margin, and that of the cross-entropy, is
            zero in every pixel.
    """

    in_training: list[str]
    logits: Tensor
    random: bool
    alone: bool
    watched: bool
    blind: float
    saturated: float


def probe(model: nn.Module, x: Tensor, y: Tensor) -> Probe:
    """The probe of images (B, C, H, W) with labels (B,)."""
    half = (len(x) + 1) // 2
    with torch.no_grad():
        logits = model(x)
        random = differs(logits, model(x))
        alone = not random and not differs(logits[:half], model(x[:half]))
    steepest, recorded = input_gradient(model, x, y, margin)
    return Probe(
        in_training=sorted({type(module).__name__ for module in model.modules() if module.training}),
        logits=logits.float(),
        random=random,
        alone=alone,
        watched=not random and differs(logits, recorded),
        blind=_share_of_zeros(steepest),
        saturated=_share_of_zeros(input_gradient(model, x, y, cross_entropy)[0]),
    )


@torch.no_grad()
def differs(logits: Tensor, again: Tensor) -> bool:
    """Whether two sets of logits (B, K) of the same images differ by more than rounding."""
    return bool((logits - again).abs().max() > ROUNDING * logits.abs().max())


def _share_of_zeros(grad: Tensor) -> float:
    return (grad.flatten(1) == 0).all(1).float().mean().item()
