"""Single-step training along the signs on which several gradients agree."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core.method import Ascent, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import UserError
from headstart.methods.registry import register
from headstart.parts.inits import Zero
from headstart.parts.losses import CrossEntropy, cross_entropy


class ConsensusStep(Ascent):
    """delta = P(alpha * sign S) where at least t of n gradient signs agree, else 0; S is the sum of the signs.

    t of n agree where |S| >= 2t - n.
    """

    def __init__(self, relative_alpha: float, samples: int, agreeing: int) -> None:
        super().__init__()
        self.relative_alpha, self.samples, self.agreeing = relative_alpha, samples, agreeing

    def forward(self, target: Target, step: Step) -> Tensor:
        x, threat = step.x, step.threat
        votes = torch.zeros_like(x)
        for _ in range(self.samples):
            noise = threat.box(x, threat.uniform(x))
            grad, _ = target.ascend(x + noise, lambda z: cross_entropy(z, step.y))
            votes += grad.sign()
        agreed = votes.where(votes.abs() >= 2 * self.agreeing - self.samples, 0.0)
        return threat.box(x, threat.project(self.relative_alpha * threat.epsilon * threat.direction(agreed)))


@register(
    "multi-grad",
    source="Golgooni et al., Intelligent Systems with Applications 2023",
    passes="(n+1)F nBx 1B, n = samples (3)",
)
def build(
    info: TaskInfo,
    samples: int = 3,
    agreeing: int | None = None,
    relative_alpha: float = 2.0,
    label_smoothing: float = 0.0,
) -> Method:
    """MultiGrad: a sign step from zero, only where the gradients at several random points have the same sign.

    eta_j = box(U(epsilon)), S = sum_j sign grad CE(f(x + eta_j), y) over j = 1..n; delta = P(alpha * sign S) where
    |S| >= 2t - n, else 0; loss CE(f(x + delta), y). With alpha >= epsilon delta is 0 or +-epsilon before the box.
    The n points are n batches, each with its own batch-norm statistics; the published code can also join them into
    one. The ascended cross-entropy is plain; only the loss is smoothed.

    Args:
        samples: n.
        agreeing: t, how many signs must agree; None for all n, as published.
        relative_alpha: step size over epsilon.
    """
    agreeing = samples if agreeing is None else agreeing
    if not samples / 2 < agreeing <= samples:
        raise UserError(f"agreeing is {agreeing}; it must be more than half of samples ({samples}) and at most all")
    return Method(Zero(), ConsensusStep(relative_alpha, samples, agreeing), CrossEntropy(label_smoothing))
