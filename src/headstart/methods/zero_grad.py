"""Single-step training that ignores the small gradient entries."""

from __future__ import annotations

import math

from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.errors import UserError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


class LargeEntryStep(SignSteps):
    """A sign step on the entries with |g| >= tau_i, the q-quantile of |g| within sample i; the others stay."""

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


@register("zero-grad", source="Golgooni et al., Intelligent Systems with Applications 2023", passes="2F 1Bx 1B")
def build(info: TaskInfo, quantile: float = 0.35, relative_alpha: float = 2.0, label_smoothing: float = 0.0) -> Method:
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
        raise UserError(f"quantile is {quantile}; it must be between 0 and 1 (the paper's is 0.35 for CIFAR-10)")
    return Method(Uniform(), LargeEntryStep(relative_alpha, quantile), CrossEntropy(label_smoothing))
