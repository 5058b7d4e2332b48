"""The epsilon at which each image falls."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import margin
from headstart.core.threat import NORMS, ThreatModel
from headstart.evaluation.inspection.search import within

LARGEST = 4.0  # times epsilon: what withstands that is only said to be further away
HALVINGS = 7  # to a thirty-second of epsilon


@torch.no_grad()
def falling_epsilons(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None = None
) -> Tensor:
    """The smallest epsilon at which PGD-20 on the margin fools the model, of each image, (B,), by bisection.

    An upper bound of the true one, to within epsilon / 32 of what this attack can do: 0 where the model is wrong
    without attack, infinite where the image stands at ``LARGEST`` times the threat model's epsilon. A success counts
    with the norm of the perturbation that was found. See ``loss_surface`` for the arguments.
    """
    largest = min(LARGEST * threat.epsilon, NORMS[threat.norm].largest)
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), largest)
    wrong = margin(model(x).float(), y) > 0
    budget, falls = high, torch.zeros_like(wrong)
    for _ in range(HALVINGS + 1):  # the first is at the largest
        delta, reached = within(model, x, y, threat, budget, score="margin", generator=generator)
        fooled = reached > 0
        falls |= fooled
        high = torch.where(fooled, torch.minimum(high, threat.size(delta)), high)
        low = torch.where(fooled, low, torch.maximum(low, torch.where(falls, budget, low)))
        budget = (low + high) / 2
    return torch.where(wrong, 0.0, torch.where(falls, high, torch.inf)).cpu()
