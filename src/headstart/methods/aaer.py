"""Single-step training that holds down the variation of abnormal adversarial examples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy

# (lambda2, lambda3) as tuned by the authors, by 255 * epsilon; for up to some tens of classes, and for more.
Tuned = dict[int, tuple[float, float]]
RS_FEW: Tuned = {8: (2.5, 1.5), 12: (5.0, 2.75), 16: (7.0, 3.25), 32: (5.75, 1.5)}
RS_MANY: Tuned = {8: (3.5, 1.5), 12: (3.5, 2.75), 16: (6.0, 2.25), 32: (5.0, 0.75)}
N_FEW: Tuned = {8: (1.5, 0.15), 12: (5.0, 0.55), 16: (8.5, 1.5), 32: (2.75, 0.75)}
N_MANY: Tuned = {8: (1.5, 0.15), 12: (3.5, 0.3), 16: (6.0, 0.5), 32: (3.5, 0.5)}


class AbnormalExamples(CrossEntropy):
    """CE(z, y) + l1 * |A|/B * (l2 * mean_A(CE_i(z0) - CE_i(z)) + l3 * max(V(A) - V(rest), 0)), if A and rest exist.

    z0 and z are the logits before and after the step, A the samples whose loss the step lowered, V(S) the mean over
    S of ||z0_i - z_i||^2. Only V(A) is differentiated, through z; the l2 term is a constant, as published.
    """

    clock_free = True

    def __init__(self, weights: tuple[float, float, float], label_smoothing: float) -> None:
        super().__init__(label_smoothing)
        self.weights = weights

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        assert step.logits0 is not None
        z0, z, (l1, l2, l3) = step.logits0.detach(), step.logits, self.weights
        drop = F.cross_entropy(z0, step.y, reduction="none") - F.cross_entropy(z.detach(), step.y, reduction="none")
        abnormal = drop > 0
        variation = (z0 - z).square().sum(1)
        excess = masked_mean(variation, abnormal) - masked_mean(variation.detach(), ~abnormal)
        term = l2 * masked_mean(drop, abnormal) + l3 * excess.clamp_min(0)
        share = abnormal.float().mean() * ~abnormal.all()  # 0 if either set is empty
        return super().forward(target, step) + l1 * share * term


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` (B,) where ``mask`` (B,) holds, 0 if nowhere; without a host synchronisation."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def tuned_loss(
    info: TaskInfo, tables: tuple[Tuned, Tuned], lambdas: tuple[float, float | None, float | None], smoothing: float
) -> AbnormalExamples:
    """The loss, a lambda that is None at the authors' value for the nearest epsilon."""
    table = tables[info.classes >= 100]
    published = table[min(table, key=lambda e: abs(e - 255 * info.threat.epsilon))]
    chosen = [ours if ours is not None else theirs for ours, theirs in zip(lambdas[1:], published, strict=True)]
    return AbnormalExamples((lambdas[0], chosen[0], chosen[1]), smoothing)


@register("rs-aaer", source="Lin, Yu, Liu, NeurIPS 2023", passes="2F 1Bx 1B")
def build_rs(
    info: TaskInfo,
    relative_alpha: float = 1.25,
    lambda1: float = 1.0,
    lambda2: float | None = None,
    lambda3: float | None = None,
    label_smoothing: float = 0.0,
) -> Method:
    """RS-AAER: FGSM-RS with a penalty on samples whose loss the attack lowers, the sign of coming collapse.

    delta0 = box(U(epsilon)); delta = P(delta0 + alpha * sign grad CE(f(x + delta0), y)); the loss is that of
    AbnormalExamples. Which samples are abnormal is judged by plain cross-entropy, the loss alone is smoothed.

    Args:
        relative_alpha: step size over epsilon.
        lambda1: weight of the whole term.
        lambda2: weight of the loss drop, which the published code detaches: it shows in the reported loss and gives
            no gradient. None takes the authors' value for the epsilon of the run and the number of classes.
        lambda3: weight of the logits' variation; None as for lambda2.
    """
    loss = tuned_loss(info, (RS_FEW, RS_MANY), (lambda1, lambda2, lambda3), label_smoothing)
    return Method(Uniform(), SignSteps(relative_alpha), loss)


@register("n-aaer", source="Lin, Yu, Liu, NeurIPS 2023", passes="2F 1Bx 1B")
def build_n(
    info: TaskInfo,
    noise_scale: float = 2.0,
    relative_alpha: float = 1.0,
    lambda1: float = 1.0,
    lambda2: float | None = None,
    lambda3: float | None = None,
    label_smoothing: float = 0.0,
) -> Method:
    """N-AAER: N-FGSM with the penalty of RS-AAER, its weights tuned anew.

    delta0 = box(U(k * epsilon)), k = ``noise_scale``; delta = box(delta0 + alpha * sign grad CE(f(x + delta0), y)),
    not projected; loss and other settings as in RS-AAER.
    """
    loss = tuned_loss(info, (N_FEW, N_MANY), (lambda1, lambda2, lambda3), label_smoothing)
    return Method(Uniform(noise_scale), SignSteps(relative_alpha, project=False), loss)
