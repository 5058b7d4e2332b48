"""Single-step training with labels that are relaxed more and more, and a term on samples that were misclassified."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from headstart.core.method import GraphKey, Loss, Method, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import cross_entropy, smoothing_of
from headstart.parts.memory import BatchMemory, Remembered

Relaxation = Callable[[Clock], float]


class BatchMomentum(Remembered):
    """delta0 <- m * delta0 + (1 - m) * delta from batch to batch; corners +-epsilon at the start."""

    def __init__(self, info: TaskInfo, momentum: float) -> None:
        super().__init__(BatchMemory(info))
        self.momentum = momentum

    def observe(self, step: Step) -> None:
        assert step.delta0 is not None
        assert step.delta is not None
        self.memory.write(step, step.delta.lerp(step.delta0, self.momentum))


class RelaxedStep(SignSteps):
    """A sign step up the cross-entropy with weight gamma on the true class, the rest spread over the others."""

    def __init__(self, relaxation: Relaxation, classes: int) -> None:
        super().__init__()
        self.relaxation, self.classes = relaxation, classes

    def score(self, step: Step, logits: Tensor) -> Tensor:
        return cross_entropy(logits, step.y, smoothing_of(self.relaxation(step.clock), self.classes))

    def graph_key(self, step: Step) -> GraphKey:
        return (self.relaxation(step.clock),)


class TaxonomyLoss(Loss):
    """CE_s(z, y) + lambda * mean_i tanh(1 - p_y(z0_i)) * ||z0_i - z_i||^2, s = 1 - gamma.

    z0 and z are the logits at x + delta0 and x + delta, both differentiated, in the factor p too. The smoothing spreads
    s over all classes, the true one among them.
    """

    needs = frozenset({"logits0"})

    def __init__(self, relaxation: Relaxation, weight: float) -> None:
        super().__init__()
        self.relaxation, self.weight = relaxation, weight

    def forward(self, target: Target, step: Step) -> Tensor:
        z0, z = step.logits0, step.logits
        assert z0 is not None
        assert z is not None
        confidence = z0.softmax(1).gather(1, step.y[:, None]).squeeze(1)
        term = (1.0000001 - confidence).tanh() * (z0 - z).square().sum(1)  # the code's number, above 0 at p = 1 too
        return cross_entropy(z, step.y, 1 - self.relaxation(step.clock)) + self.weight * term.mean()

    def graph_key(self, step: Step) -> GraphKey:
        return (self.relaxation(step.clock),)


def published_floor(classes: int) -> float:
    """0.15 at ten classes and 0.05 above; below ten as far above chance as at ten."""
    return 1.5 / classes if classes <= 10 else 0.05


@register("tdat", source="Tong, Jiang, Gui, Cao, AAAI 2024", passes="2F 1Bx 2B")
def build(
    info: TaskInfo,
    weight: float | None = None,
    relaxation: float = 0.6,
    floor: float | None = None,
    momentum: float = 0.0,
) -> Method:
    """TDAT: a sign step from the perturbation of the last batch, relaxed labels, and logits held together where wrong.

    In epoch e of E gamma = max(0.6 * tan(1 - e / E), floor); g = grad CE_gamma(f(x + delta0), y) with gamma on the
    true class, delta = P(delta0 + epsilon * sign g), which is the next batch's delta0; loss as in TaxonomyLoss. This
    is the authors' script. Their paper writes tanh for tan, which with 0.6 their CIFAR-10 log rules out: its losses
    are below the entropy of such labels. The published code leaves out an incomplete last batch, as the recipe's
    ``drop_last`` does.

    Args:
        weight: lambda; None is the published 0.6, 0.05 or 0.025 at up to 10, up to 100 or more classes.
        relaxation: gamma's largest value over tan(1).
        floor: gamma's smallest value; None is the published 0.15 at ten classes, 0.05 above. The paper and the logs
            disagree on ImageNet-100 (0.05, 0.1) and Tiny-ImageNet (0.025, 0.05).
        momentum: m of delta0 <- m * delta0 + (1 - m) * delta. The paper's is 0.75; in the code it has no effect, since
            the new perturbation takes the place of the old one before the two are mixed.
    """
    floor = published_floor(info.classes) if floor is None else floor
    if weight is None:
        weight = 0.6 if info.classes <= 10 else 0.05 if info.classes <= 100 else 0.025
    if not 0 <= relaxation * math.tan(1) <= 1:
        raise SettingError(
            f"relaxation is {relaxation}; it must be between 0 and {1 / math.tan(1):.3f} (published 0.6)"
        )
    if not 1 / info.classes <= floor <= 1:
        least = f"{1 / info.classes:g} (one of {info.classes} classes)"
        raise SettingError(f"floor is {floor}; it must be between {least} and 1 (0.15 at ten classes)")
    if not 0 <= momentum < 1:
        raise SettingError(f"momentum is {momentum}; it must be at least 0 and below 1 (the paper's is 0.75)")

    def gamma(clock: Clock) -> float:
        return max(relaxation * math.tan(1 - clock.epoch / clock.epochs), floor)

    return Method(BatchMomentum(info, momentum), RelaxedStep(gamma, info.classes), TaxonomyLoss(gamma, weight))
