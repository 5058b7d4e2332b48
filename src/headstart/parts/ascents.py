"""Ways to raise the loss."""

from __future__ import annotations

from torch import Tensor

from headstart.core.method import Ascent
from headstart.core.step import Step
from headstart.core.target import BatchNormMode, Target
from headstart.parts.losses import cross_entropy


class NoAscent(Ascent):
    """delta = delta0; with a zero start, training on clean images."""

    clock_free = True

    def forward(self, target: Target, step: Step) -> Tensor | None:
        return step.delta0


class SignSteps(Ascent):
    """delta <- P(delta + alpha * direction(gradient)), ``steps`` times; in L-infinity the direction is the sign.

    Args:
        relative_alpha: step size over epsilon, so that a ramped epsilon ramps the step with it.
        steps: number of steps.
        project: project onto the epsilon-ball after each step.
        box: clip to the image box after each step.
        box_start: take the first gradient at the nearest image to x + delta0; the step still goes on from delta0.
        label_smoothing: of the cross-entropy that is ascended.
        batch_norm: mode of the ascent passes; None follows the target's setting.
    """

    clock_free = True

    def __init__(
        self,
        relative_alpha: float = 1.0,
        *,
        steps: int = 1,
        project: bool = True,
        box: bool = True,
        box_start: bool = False,
        label_smoothing: float = 0.0,
        batch_norm: BatchNormMode | None = None,
    ) -> None:
        super().__init__()
        self.relative_alpha, self.steps, self.project, self.box = relative_alpha, steps, project, box
        self.box_start, self.label_smoothing = box_start, label_smoothing
        self.batch_norm = batch_norm

    def forward(self, target: Target, step: Step) -> Tensor | None:
        x, delta, threat = step.x, step.delta0, step.threat
        for k in range(self.steps):
            keep = k == 0 and "logits0" in step.needs
            point = x if delta is None else x + delta
            if k == 0 and delta is not None and self.box_start:
                point = x + threat.box(x, delta)
            if keep:
                point = step.x0 = point.detach().requires_grad_()
            grad, logits = target.ascend(point, lambda z: self.score(step, z), batch_norm=self.batch_norm, keep=keep)
            if k == 0:
                step.grad0, step.logits0 = grad, logits
            move = self.direction(step, grad) * (self.relative_alpha * threat.epsilon)
            # Not detached: an initialisation that learns receives its gradient through this sum.
            delta = move if delta is None else delta + move
            if self.project:
                delta = threat.project(delta)
            if self.box:
                delta = threat.box(x, delta)
        return delta

    def score(self, step: Step, logits: Tensor) -> Tensor:
        """What is raised; what methods with a guided attack change."""
        return cross_entropy(logits, step.y, self.label_smoothing)

    def direction(self, step: Step, grad: Tensor) -> Tensor:
        """Unit step for the gradient; what methods that mask or vote change."""
        return step.threat.direction(grad)
