"""Single-step training on a mixture of the old and the new perturbation, weighted by confidence."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import Loss, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import cross_entropy, smoothing_of
from headstart.parts.memory import Remembered, perturbation_memory


class ConfidenceMix(SignSteps):
    """delta_mix = c * delta0 + (1 - c) * stretch * d, d one sign step from delta0, c_i = 1 - p_{y_i}(x_i + delta0_i).

    d is left as the note "stepped". Where c is not constant, gradients flow through it into f(x + delta0).
    """

    clock_free = True

    def __init__(self, relative_alpha: float, stretch: float, *, through_confidence: bool, label_smoothing: float):
        super().__init__(relative_alpha, label_smoothing=label_smoothing)
        self.stretch, self.through_confidence = stretch, through_confidence

    def forward(self, target: Target, step: Step) -> Tensor:
        stepped = super().forward(target, step)
        assert stepped is not None
        assert step.logits0 is not None
        assert step.delta0 is not None
        c = 1 - step.logits0.softmax(1).gather(1, step.y[:, None]).view(-1, 1, 1, 1)
        if not self.through_confidence:
            c = c.detach()
        step.notes["stepped"] = stepped
        return c * step.delta0 + (1 - c) * self.stretch * stepped


class BiLevel(Loss):
    """CE_s(z_mix, y) + lambda * |MSE(z, z0) - MSE(z, z_mix)|, z = f(x + d), z0 = f(x + delta0), all differentiated."""

    needs = frozenset({"logits0"})
    clock_free = True

    def __init__(self, weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.weight, self.label_smoothing = weight, label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        assert step.logits0 is not None
        z = target(step.x + step.notes["stepped"])
        gap = F.mse_loss(z, step.logits0) - F.mse_loss(z, step.logits)
        return cross_entropy(step.logits, step.y, self.label_smoothing) + self.weight * gap.abs()


class RememberedStep(Remembered):
    """delta0 = d of the last visit, the step before it was mixed."""

    def observe(self, step: Step) -> None:
        self.memory.write(step, step.notes["stepped"])


@register("fgsm-pco", source="Wang et al., ECCV 2024", passes="3F 1Bx 3B + per-sample memory")
def build(
    info: TaskInfo,
    weight: float = 10.0,
    stretch: float = 1.5,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    through_confidence: bool = True,
    compact: bool = True,
    aligned: bool = False,
) -> Method:
    """FGSM-PCO: where the network is confident, train on an over-long step; where it is not, on the old perturbation.

    delta0_i = d_i of the last epoch, corners +-epsilon at first, never reset; d = P(delta0 + alpha * sign grad
    CE_s(f(x + delta0), y)); delta as in ConfidenceMix; loss as in BiLevel. As published, delta is neither projected
    nor boxed: its norm reaches 1.5 epsilon. FastAT Benchmark smooths labels twice; here it is done once.

    Args:
        weight: lambda.
        stretch: factor on the new perturbation in the mixture, the benchmark's beta.
        label_smoothing: of loss and ascent; None is the published true-class weight of 0.6.
        through_confidence: differentiate through c, as the code does; otherwise it is a constant.
        compact, aligned: as in fgsm-mep.
    """
    smoothing = smoothing_of(0.6, info.classes) if label_smoothing is None else label_smoothing
    ascent = ConfidenceMix(relative_alpha, stretch, through_confidence=through_confidence, label_smoothing=smoothing)
    init = RememberedStep(perturbation_memory(info, compact, aligned))
    return Method(init, ascent, BiLevel(weight, smoothing))
