"""Single-step training on the gradient entries that can be trusted: the large ones, or those that several agree on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headstart.core.method import Ascent, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform, Zero
from headstart.parts.losses import CrossEntropy, cross_entropy

SOURCE = "Golgooni et al., Intelligent Systems with Applications 2023"


class LargeEntryStep(SignSteps):
    """A sign step on the entries with |g| >= tau_i, the q-quantile of |g| within sample i; the others stay."""

    clock_free = True

    def __init__(self, relative_alpha: float, quantile: float) -> None:
        super().__init__(relative_alpha)
        self.quantile = quantile

    def direction(self, step: Step, grad: Tensor) -> Tensor:
        size = grad.abs()
        # torch.quantile sorts, and refuses large batches. Between two neighbours in order it interpolates, and no
        # entry lies between them: the upper one is as good a threshold.
        rank = math.ceil(round(self.quantile * (size[0].numel() - 1), 6))
        tau = size.flatten(1).kthvalue(rank + 1, dim=1).values.view(-1, 1, 1, 1)
        return super().direction(step, grad.where(size >= tau, 0.0))


@register("zero-grad", source=SOURCE, passes="2F 1Bx 1B")
def zero_grad(
    info: TaskInfo, quantile: float = 0.35, relative_alpha: float = 2.0, label_smoothing: float = 0.0
) -> Method:
    """ZeroGrad: a sign step of 2 epsilon from a uniform random start, on the larger gradient entries alone.

    delta0 = box(U(epsilon)); g = grad CE(f(x + delta0), y), set to 0 where |g_i| < tau_i, the q-quantile of sample
    i; delta = box(project(delta0 + alpha * sign g)), so that zeroed entries keep their noise; loss CE(f(x + delta)).
    The ascended cross-entropy is plain; only the loss is smoothed.

    Args:
        quantile: q, the share of entries left where they are. Published: 0.35 for CIFAR-10, 0.45 for CIFAR-100, 0.7
            for SVHN.
        relative_alpha: step size over epsilon.
    """
    if not 0 <= quantile <= 1:
        raise SettingError(f"quantile is {quantile}; it must be between 0 and 1 (the paper's is 0.35 for CIFAR-10)")
    return Method(Uniform(), LargeEntryStep(relative_alpha, quantile), CrossEntropy(label_smoothing))


class ConsensusStep(Ascent):
    """delta = P(alpha * sign S) where at least t of n gradient signs agree, else 0; S is the sum of the signs.

    t of n agree where |S| >= 2t - n.
    """

    clock_free = True

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
    source=SOURCE,
    passes="(n+1)F nBx 1B, n = samples (3)",
)
def multi_grad(
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
        raise SettingError(f"agreeing is {agreeing}; it must be more than half of samples ({samples}) and at most all")
    return Method(Zero(), ConsensusStep(relative_alpha, samples, agreeing), CrossEntropy(label_smoothing))
