"""Single-step training whose input gradients keep their direction within the ball."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Zero
from headstart.parts.losses import CrossEntropy, cross_entropy

TUNED = 16  # largest epsilon, in 255ths, for which the authors chose lambda; the law explodes beyond


class GradientAlignment(CrossEntropy):
    """CE(f(x + delta), y) + lambda * mean_i (1 - cos(g_i(x), g_i(x + eta))), eta ~ U(epsilon), g = grad CE.

    The weights are differentiated through g(x + eta) alone. Samples in which either gradient is exactly zero do not
    count.
    """

    clock_free = True

    def __init__(self, weight: float, label_smoothing: float) -> None:
        super().__init__(label_smoothing)
        self.weight = weight

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.grad0 is not None
        eta = step.threat.uniform(step.x)
        grad, _ = target.ascend(step.x + eta, lambda z: cross_entropy(z, step.y), create=True)
        ours, other = step.grad0.flatten(1), grad.flatten(1)
        counts = ours.any(1) & other.any(1)
        cosine = F.cosine_similarity(ours, other, eps=torch.finfo(other.dtype).tiny)
        misalignment = (counts * (1 - cosine)).sum() / counts.sum().clamp_min(1)
        return super().forward(target, step) + self.weight * misalignment


@register("fgsm-ga", source="Andriushchenko, Flammarion, NeurIPS 2020", passes="3F 2Bx 1B + double backward")
def build(
    info: TaskInfo, weight: float | None = None, relative_alpha: float = 1.0, label_smoothing: float = 0.0
) -> Method:
    """FGSM-GA (GradAlign): a sign step from zero, and a penalty on input gradients that turn within the ball.

    delta = P(alpha * sign g), g = grad CE(f(x), y); loss CE(f(x + delta), y) + lambda * mean_i (1 - cos(g_i(x),
    g_i(x + eta))), eta ~ U(epsilon) and not boxed. The published step is 1.25 epsilon, which from zero the
    projection turns into epsilon. Attack and alignment use plain cross-entropy; only the loss is smoothed. The
    double backward runs uncompiled.

    Args:
        weight: lambda. None takes the authors' 0.02 * 10^(255 epsilon / 8), 0.2 at 8/255, and keeps its 2 at 16/255,
            the largest epsilon they tuned, above that. On Tiny-ImageNet 0.2 is too small for long runs.
        relative_alpha: step size over epsilon.
    """
    if weight is None:
        weight = 0.02 * 10 ** (min(255 * info.threat.epsilon, TUNED) / 8)
    return Method(Zero(), SignSteps(relative_alpha), GradientAlignment(weight, label_smoothing))
