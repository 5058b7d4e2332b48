"""How far the loss is from linear inside the ball: a sign of catastrophic overfitting."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import cross_entropy, input_gradient
from headstart.core.threat import NORMS, ThreatModel


def cosine(grad: Tensor, other: Tensor) -> Tensor:
    """Cosine of the angle between two gradients (B, C, H, W) of each sample, (B,); 0 where one of them is zero.

    Both are brought to length 1 first, since those of confident predictions are too small for float32 to multiply.
    """
    unit = NORMS["l2"].direction
    return (unit(grad) * unit(other)).flatten(1).sum(1)


@torch.no_grad()
def pert_align(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """PertAlign of plain FGSM: cos(g_i, b_i), g and b the input gradients of the loss before and after the step.

    1 where the loss is linear along the step; it falls as the loss bends (Teymourian et al., SORA, ICML 2026,
    arXiv:2606.00738). The authors take b from the weight update's own backward, at no further pass; this measures any
    model, for two gradients.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.

    Returns:
        The cosine of each sample, (B,); the mean over a batch is the published number.
    """
    before, _ = input_gradient(model, x, y, cross_entropy)
    step = threat.box(x, threat.epsilon * threat.direction(before))
    after, _ = input_gradient(model, x + step, y, cross_entropy)
    return cosine(before, after)


@torch.no_grad()
def local_linearity(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None = None
) -> Tensor:
    """cos(grad CE(f(x), y), grad CE(f(x + eta), y)) with eta uniform in the ball, boxed.

    1 where the loss is linear in the ball; it falls to about 0 where a network collapses (Andriushchenko &
    Flammarion, NeurIPS 2020, arXiv:2007.02617). GradAlign penalises 1 minus this.

    Args:
        model, x, y, threat: see ``pert_align``.
        generator: source of eta, on the device of ``x``; the global one where None.

    Returns:
        The cosine of each sample, (B,).
    """
    here, _ = input_gradient(model, x, y, cross_entropy)
    eta = threat.box(x, threat.uniform(x, generator=generator))
    there, _ = input_gradient(model, x + eta, y, cross_entropy)
    return cosine(here, there)
