"""Multi-step training that trades clean accuracy for agreement within the ball."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core.method import Loss, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import BatchNormMode, Target
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Gaussian
from headstart.parts.losses import cross_entropy, kl_divergence


class DivergenceSteps(SignSteps):
    """Sign steps that raise KL(p(x) || p(x + delta)), p(x) a constant taken in the same batch-norm mode."""

    clock_free = True

    def forward(self, target: Target, step: Step) -> Tensor | None:
        with torch.no_grad():
            step.clean = target(step.x, batch_norm=self.batch_norm or target.ascent_batch_norm)
        return super().forward(target, step)

    def score(self, step: Step, logits: Tensor) -> Tensor:
        assert step.clean is not None
        return kl_divergence(step.clean, logits).mean()


class Trades(Loss):
    """CE(f(x), y) + beta * mean_i KL(p(x) || p(x + delta)), both points differentiated."""

    clock_free = True

    def __init__(self, beta: float, label_smoothing: float) -> None:
        super().__init__()
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        clean = target(step.x)
        divergence = kl_divergence(clean, step.logits).mean()
        return cross_entropy(clean, step.y, self.label_smoothing) + self.beta * divergence


@register("trades", source="Zhang et al., ICML 2019", passes="(T+3)F TBx 2B, T = steps (10)", norms=ANY_NORM)
def build(
    info: TaskInfo,
    beta: float = 6.0,
    steps: int = 10,
    relative_alpha: float = 0.007 / 0.031,
    label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """TRADES: clean cross-entropy, and a KL term that holds predictions in the ball to the clean ones.

    delta0 = 0.001 * N(0, 1); T times delta = P(delta + alpha * sign grad KL(p(x) || p(x + delta))); loss CE(f(x), y)
    + beta * KL(p(x) || p(x + delta)). The published code takes p(x) anew in every step and twice in the loss; one
    pass for all steps and one for the loss give the same weights, and running statistics that saw the clean batch
    once, not twice.

    Args:
        beta: weight of the KL term, the paper's 1/lambda.
        relative_alpha: step size over epsilon; published 0.007 at 0.031.
        batch_norm: mode of the ascent passes; evaluation as published.
    """
    ascent = DivergenceSteps(relative_alpha, steps=steps, batch_norm=batch_norm)
    return Method(Gaussian(), ascent, Trades(beta, label_smoothing))
