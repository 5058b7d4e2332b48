"""GAT and NuAT: a distance between clean and adversarial logits guides the attack and the training alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from headstart.core.method import Loss, Method, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import BatchNormMode, Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Bernoulli
from headstart.parts.losses import Criterion, cross_entropy

Weight = Callable[[Clock], float]


class GuidedStep(SignSteps):
    """A sign step on CE(f(x + delta0), y), plus lambda * D(f(x), f(x + delta0)) on odd batches of an epoch."""

    needs = frozenset({"clean"})

    def __init__(
        self,
        distance: Criterion,
        weight: Weight,
        relative_alpha: float,
        *,
        label_smoothing: float,
        batch_norm: BatchNormMode,
    ) -> None:
        super().__init__(relative_alpha, label_smoothing=label_smoothing, batch_norm=batch_norm)
        self.distance, self.weight = distance, weight

    def score(self, step: Step, logits: Tensor) -> Tensor:
        score = super().score(step, logits)
        if step.clock.batch % 2 == 0:
            return score
        assert step.clean is not None
        return score + self.weight(step.clock) * self.distance(step.clean.detach(), logits)


class GuidedLoss(Loss):
    """CE(f(x), y) + lambda * D(f(x), f(x + delta)), both points differentiated."""

    needs = frozenset({"clean"})

    def __init__(self, distance: Criterion, weight: Weight, label_smoothing: float) -> None:
        super().__init__()
        self.distance, self.weight, self.label_smoothing = distance, weight, label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.clean is not None
        assert step.logits is not None
        distance = self.distance(step.clean, step.logits)
        return cross_entropy(step.clean, step.y, self.label_smoothing) + self.weight(step.clock) * distance


def guided(
    distance: Criterion,
    weight: Weight,
    *,
    relative_alpha: float,
    label_smoothing: float,
    ascent_label_smoothing: float,
    batch_norm: BatchNormMode,
) -> Method:
    """The method with D = ``distance`` of two batches of logits (B, K), and lambda = ``weight`` at every update.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A the score of GuidedStep. One pass at x with
    batch statistics serves attack and loss: the published codes take a second one, which gives the same logits and
    moves the running statistics once more.
    """
    ascent = GuidedStep(distance, weight, relative_alpha, label_smoothing=ascent_label_smoothing, batch_norm=batch_norm)
    return Method(Bernoulli(0.5), ascent, GuidedLoss(distance, weight, label_smoothing))


def squared_distance(logits: Tensor, other: Tensor) -> Tensor:
    """mean_i sum_k (p_ik - q_ik)^2, p and q the softmax of two batches of logits (B, K)."""
    return (logits.softmax(1) - other.softmax(1)).square().sum(1).mean()


@register("gat", source="Sriramanan et al., NeurIPS 2020", passes="3F 1Bx 2B")
def gat(
    info: TaskInfo,
    weight: float = 10.0,
    jump: float = 4.0,
    jump_at: float = 0.85,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    ascent_label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """GAT: clean cross-entropy, and a squared distance of probabilities that guides attack and training alike.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A = CE(f(x + delta0), y), on odd batches of
    an epoch + lambda * ||p(x) - p(x + delta0)||^2; loss CE(f(x), y) + lambda * ||p(x) - p(x + delta)||^2, means
    over the batch. FastAT Benchmark applies A's cross-entropy to probabilities on even batches; here, as in the
    authors' code, to logits. One clean pass serves attack and loss where the authors' code takes two.

    Args:
        weight: lambda; 10 for CIFAR-10, 20 for ImageNet-100.
        jump: factor on lambda in the last epochs; 4 for CIFAR-10, 7 for ImageNet-100.
        jump_at: share of the epochs up to which it does not apply yet. The published code multiplies at the end of
            the epoch with index 85 of 100 (90 of 120 for ImageNet-100), so the next is the first with more.
        relative_alpha: step size over epsilon.
        ascent_label_smoothing: of A's cross-entropy; none as published, FastAT Benchmark's is that of the loss.
        batch_norm: mode of the ascent pass; evaluation as published.
    """

    def lambda_at(clock: Clock) -> float:
        return weight * (jump if clock.epoch > jump_at * clock.epochs else 1.0)

    return guided(
        squared_distance,
        lambda_at,
        relative_alpha=relative_alpha,
        label_smoothing=label_smoothing,
        ascent_label_smoothing=ascent_label_smoothing,
        batch_norm=batch_norm,
    )


def nuclear_distance(logits: Tensor, other: Tensor) -> Tensor:
    """||D||_* / B, D the difference of two batches of logits (B, K); the derivative of ||D||_* is U V^T."""
    difference = logits - other
    return (difference * polar_factor(difference.detach())).sum() / len(logits)


def polar_factor(matrix: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T, without the host synchronisation that torch's has.

    Weighted Halley iteration (Nakatsukasa, Bai, Gygi, SIAM J. Matrix Anal. Appl. 31, 2010) in double precision: a
    fixed number of steps takes every singular value above ``low`` times the largest to 1. Exact zeros stay 0.
    """
    tall = matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().mT
    x = tall / torch.linalg.matrix_norm(tall).clamp_min(torch.finfo(torch.float32).tiny)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    low = 1e-7
    for _ in range(6):
        d = (4 * (1 / low**2 - 1) / low**2) ** (1 / 3)
        a = math.sqrt(1 + d) + math.sqrt(2 - d + 2 * (2 / low**2 - 1) / math.sqrt(1 + d))
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        factor, _ = torch.linalg.cholesky_ex(identity + c * x.mT @ x)
        x = b / c * x + (a - b / c) * torch.cholesky_solve(x.mT, factor).mT
        low = min(low * (a + b * low**2) / (1 + c * low**2), 1.0)
    polar: Tensor = x if x.shape == matrix.shape else x.mT
    return polar.to(matrix.dtype)


@register("nuat", source="Sriramanan et al., NeurIPS 2021", passes="3F 1Bx 2B")
def nuat(
    info: TaskInfo,
    weight: float = 4.5,
    ramp: float = 0.9,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    ascent_label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """NuAT: clean cross-entropy, and a nuclear norm of logit differences that guides attack and training alike.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A = CE(f(x + delta0), y), on odd batches of
    an epoch + lambda_e * ||f(x) - f(x + delta0)||_* / B; loss CE(f(x), y) + lambda_e * ||f(x) - f(x + delta)||_* / B.
    B is the true batch size; the published code divides the last, smaller batch by the nominal one. One clean pass
    serves attack and loss where it takes two.

    Args:
        weight: largest lambda; 4.5 published, 4 in the variant with averaged weights and in FastAT Benchmark.
        ramp: share of the E epochs over which lambda_e rises from 0, lambda_e = weight * min(e / (ramp * E), 1) in
            epoch e. Published: 90 of 100 epochs; all of them in the variant with averaged weights.
        relative_alpha: step size over epsilon.
        ascent_label_smoothing: as in gat.
        batch_norm: mode of the ascent pass; "eval" as in the authors' code, FastAT Benchmark's is "train".
    """
    if not 0 < ramp <= 1:
        raise SettingError(f"ramp is {ramp}; it must be a share of the epochs, above 0 and at most 1")

    def lambda_at(clock: Clock) -> float:
        return weight * min(clock.epoch / (ramp * clock.epochs), 1.0)

    return guided(
        nuclear_distance,
        lambda_at,
        relative_alpha=relative_alpha,
        label_smoothing=label_smoothing,
        ascent_label_smoothing=ascent_label_smoothing,
        batch_norm=batch_norm,
    )
