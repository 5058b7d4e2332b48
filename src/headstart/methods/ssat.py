"""Single-step training whose perturbations end where the prediction first turns wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import BatchNormMode, Target
from headstart.errors import SettingError
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


class CheckpointStep(SignSteps):
    """A sign step d, shortened to delta_i = s_i * d_i.

    s_i = j/c for the smallest j in 1..c at which x_i + (j/c) d_i is misclassified, 1 if none is; 0, that is no
    perturbation, where x_i + delta0_i already is.
    """

    clock_free = True

    def __init__(
        self, relative_alpha: float, checkpoints: int, *, label_smoothing: float, batch_norm: BatchNormMode
    ) -> None:
        super().__init__(relative_alpha, label_smoothing=label_smoothing, batch_norm=batch_norm)
        self.checkpoints = checkpoints

    def forward(self, target: Target, step: Step) -> Tensor:
        d = super().forward(target, step)
        assert d is not None
        assert step.logits0 is not None
        correct = step.logits0.argmax(1) == step.y
        scale = correct.to(d.dtype)
        for j in range(self.checkpoints - 1, 0, -1):
            with torch.no_grad():
                logits = target(step.x + j / self.checkpoints * d, batch_norm="eval")
            scale = scale.masked_fill(correct & (logits.argmax(1) != step.y), j / self.checkpoints)
        return scale.view(-1, 1, 1, 1) * d


@register("ssat", source="Kim, Lee, Lee, AAAI 2021", passes="(c+1)F 1Bx 1B, c = checkpoints (3)", norms=ANY_NORM)
@register(
    "fgsm-ckpt",
    source="Kim, Lee, Lee, AAAI 2021 (ssat by its other name)",
    passes="(c+1)F 1Bx 1B, c = checkpoints (3)",
    norms=ANY_NORM,
    same_as="ssat",
)
def build(
    info: TaskInfo,
    checkpoints: int = 3,
    relative_alpha: float = 1.25,
    label_smoothing: float = 0.0,
    ascent_label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """SSAT, also called FGSM-CKPT: FGSM-RS whose step is cut, per sample, where the prediction first turns wrong.

    delta0 = box(U(epsilon)); d = P(delta0 + alpha * sign grad CE(f(x + delta0), y)); delta_i = s_i * d_i with s_i as
    in CheckpointStep; loss CE(f(x + delta), y). All c - 1 checkpoints are tried on the whole batch: picking the
    samples out would make the device wait. The published code drops a checkpoint when its inference batch is full,
    which its settings never reach.

    Args:
        checkpoints: c.
        relative_alpha: step size over epsilon.
        ascent_label_smoothing: of the ascended cross-entropy; none as published, FastAT Benchmark's is the loss's.
        batch_norm: mode of the ascent pass, "eval" as in the authors' code; FastAT Benchmark's is "train".
            Checkpoints are always tried in evaluation mode.
    """
    if checkpoints < 1:
        raise SettingError(f"checkpoints is {checkpoints}; it must be at least 1 (the paper's is 3)")
    ascent = CheckpointStep(relative_alpha, checkpoints, label_smoothing=ascent_label_smoothing, batch_norm=batch_norm)
    return Method(Uniform(), ascent, CrossEntropy(label_smoothing))
