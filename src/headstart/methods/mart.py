"""Multi-step training that weighs samples by how badly their clean image is classified."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import BatchNormMode, Target
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Gaussian
from headstart.parts.losses import CrossEntropy, kl_divergence


class Mart(CrossEntropy):
    """BCE(f(x + delta), y) + beta * mean_i KL(p_i(x) || p_i(x + delta)) (1 - p_iy(x)), both points differentiated.

    BCE(z, y) = CE(z, y) - mean_i log(1 - max_{k != y} p_ik).
    """

    clock_free = True

    def __init__(self, beta: float, label_smoothing: float) -> None:
        super().__init__(label_smoothing)
        self.beta = beta

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        label = step.y[:, None]
        clean = target(step.x)
        runner_up = step.logits.softmax(1).scatter(1, label, 0.0).amax(1)
        margin = -torch.log(1.0001 - runner_up + 1e-12).mean()  # the published guards against log 0
        doubt = 1.0000001 - clean.softmax(1).gather(1, label).squeeze(1)
        weighted = (kl_divergence(clean, step.logits) * doubt).mean()
        return super().forward(target, step) + margin + self.beta * weighted


@register("mart", source="Wang et al., ICLR 2020", passes="(T+2)F TBx 2B, T = steps (10)", norms=ANY_NORM)
def build(
    info: TaskInfo,
    beta: float = 5.0,
    steps: int = 10,
    relative_alpha: float = 0.007 / 0.031,
    label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """MART: a margin-boosted loss at the adversarial point, and a KL term weighted towards misclassified samples.

    delta0 = 0.001 * N(0, 1); T times delta = P(delta + alpha * sign grad CE(f(x + delta), y)); loss CE(f(x + delta),
    y) - log(1 - max_{k != y} p_k(x + delta)) + beta * KL(p(x) || p(x + delta)) (1 - p_y(x)), means over the batch.
    The ascended cross-entropy is plain; only the loss is smoothed.

    Args:
        beta: weight of the KL term; 5 in the published script, 6 in its function's default.
        relative_alpha: step size over epsilon; published 0.007 at 0.031.
        batch_norm: mode of the ascent passes; evaluation as published.
    """
    ascent = SignSteps(relative_alpha, steps=steps, batch_norm=batch_norm)
    return Method(Gaussian(), ascent, Mart(beta, label_smoothing))
