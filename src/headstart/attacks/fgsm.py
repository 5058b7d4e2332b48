"""The fast gradient sign method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headstart.attacks.scores import cross_entropy, input_gradient
from headstart.core.threat import ThreatModel


@torch.no_grad()
def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """One step of length epsilon from the clean image (Goodfellow, Shlens & Szegedy, 2015, arXiv:1412.6572).

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.

    Returns:
        Adversarial examples inside the threat model, of the shape of ``x``.
    """
    grad, _ = input_gradient(model, x, y, cross_entropy)
    return x + threat.box(x, threat.epsilon * threat.direction(grad))
