"""The attack of all analyses: PGD that keeps what was worst, with a budget of its own for every image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import find_score, input_gradient
from headstart.core.threat import ThreatModel

STEPS = 20


@torch.no_grad()
def worst(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, score: str, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The worst perturbation that ``within`` finds in the ball, (B, C, H, W), and its score (B,)."""
    return within(model, x, y, threat, x.new_full((len(x),), threat.epsilon), score=score, generator=generator)


@torch.no_grad()
def within(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    budget: Tensor,
    *,
    score: str,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """PGD-20 from a uniform start, which returns of each image the point of highest score that it passed.

    Unlike ``attacks.pgd`` it does not stop at the first success: a loss surface needs the loss at its worst.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: its norm counts; the size of the ball is ``budget``.
        budget: epsilon of each image, (B,).
        score: "ce" or "margin", see ``attacks.scores``.
        generator: source of the start.

    Returns:
        The perturbations, boxed, and their scores (B,).
    """
    unit, size = ThreatModel(1.0, threat.norm), budget.view(-1, 1, 1, 1)
    objective = find_score(score)
    delta = unit.box(x, size * unit.uniform(x, generator=generator))
    best, highest = delta, x.new_full((len(x),), -torch.inf)
    for step in range(STEPS + 1):
        grad, logits = input_gradient(model, x + delta, y, objective)
        reached = objective(logits.float(), y)
        better = reached > highest
        best = chosen(better, delta, best)
        highest = torch.where(better, reached, highest)
        if step < STEPS:
            moved = delta / size.clamp_min(torch.finfo(x.dtype).tiny) + unit.direction(grad) / 4
            delta = unit.box(x, size * unit.project(moved))
    return best, highest
