"""What GAT and NuAT share: a distance between clean and adversarial logits in the attack and in the loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from headstart.core.method import Loss, Method
from headstart.core.step import Clock, Step
from headstart.core.target import BatchNormMode, Target
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Bernoulli
from headstart.parts.losses import Criterion, cross_entropy

Weight = Callable[[Clock], float]


class GuidedStep(SignSteps):
    """A sign step on CE(f(x + delta0), y), plus lambda * D(f(x), f(x + delta0)) on odd batches of an epoch."""

    needs = frozenset({"clean"})

    def __init__(
        self, distance: Criterion, weight: Weight, relative_alpha: float, batch_norm: BatchNormMode | None
    ) -> None:
        super().__init__(relative_alpha, batch_norm=batch_norm)
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
    batch_norm: BatchNormMode | None,
) -> Method:
    """The method with D = ``distance`` of two batches of logits (B, K), and lambda = ``weight`` at every update.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A the score of GuidedStep. One pass at x with
    batch statistics serves attack and loss: the published codes take a second one, which gives the same logits and
    moves the running statistics once more.
    """
    ascent = GuidedStep(distance, weight, relative_alpha, batch_norm)
    return Method(Bernoulli(0.5), ascent, GuidedLoss(distance, weight, label_smoothing))
