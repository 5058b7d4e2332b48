"""Single-step training whose step shrinks when the loss bends, seen from the weight update's own backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


class LinearityStep(SignSteps):
    """delta = box(delta0 + alpha * r * sign g), r ~ U[0, 1) per pixel and channel, as long as the loss is linear.

    alpha = largest * epsilon * min(1, tolerance / (1 - c)). The linearity c, 0.99 at first, is an average over the
    updates: c <- (1 - rate) * c + rate * clip(mean_i <sign g_i, b_i> / ||g_i||_1, -1, 1), g and b the gradients of the
    loss at x + delta0 and, from the weight update's own backward, at x + delta. The mean is that over the samples of
    all processes, whose c stay equal.
    """

    clock_free = True

    def __init__(self, largest: float, tolerance: float, rate: float, label_smoothing: float) -> None:
        super().__init__(largest, project=False, label_smoothing=label_smoothing)
        self.tolerance, self.rate = tolerance, rate
        self.linearity: Tensor
        self.register_buffer("linearity", torch.tensor(0.99, dtype=torch.float64))

    def forward(self, target: Target, step: Step) -> Tensor:
        delta = super().forward(target, step)
        assert delta is not None
        return delta.detach().requires_grad_()

    def direction(self, step: Step, grad: Tensor) -> Tensor:
        bend = (1 - self.linearity).clamp_min(torch.finfo(torch.float64).tiny)
        return (self.tolerance / bend).clamp_max(1) * torch.rand_like(grad) * super().direction(step, grad)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        assert step.delta is not None
        assert step.delta.grad is not None
        scale = step.notes["scale"].grad
        assert scale is not None
        grad, after = step.grad0.flatten(1), step.delta.grad.flatten(1) / scale
        ratio = (grad.sign() * after).sum(1) / grad.abs().sum(1).clamp_min(1e-12)
        total, count = distributed.sum_(torch.stack([ratio.sum(), ratio.new_full((), len(ratio))]))
        self.linearity.lerp_((total / count).clamp(-1, 1).double(), self.rate)


class ScaledCrossEntropy(CrossEntropy):
    """Cross-entropy at x + delta; the gradient of ``step.notes["scale"]`` is what a backward multiplies the loss by.

    That is the share of a part in an accumulated batch, or the factor of a loop that is not ours.
    """

    clock_free = True

    def forward(self, target: Target, step: Step) -> Tensor:
        loss = super().forward(target, step)
        step.notes["scale"] = torch.zeros_like(loss, requires_grad=True)
        return loss + step.notes["scale"]


@register("sora", source="Teymourian et al., ICML 2026", passes="2F 1Bx 1B")
def build(
    info: TaskInfo,
    largest_alpha: float = 2.0,
    tolerance: float = 0.02,
    rate: float = 0.05,
    label_smoothing: float = 0.0,
) -> Method:
    """SORA: a sign step of random length per entry, the shorter the more the loss bent in the last updates.

    delta0 = box(U(epsilon)); delta and its step size as in LinearityStep, not projected, up to 3 epsilon; loss
    CE(f(x + delta), y). This is the authors' default, "Second Order Theory Sign"; their Euclidean variant is left out.
    The step size of an update follows from the updates before it, and costs no pass.

    Args:
        largest_alpha: largest step size over epsilon.
        tolerance: the step is full while 1 - c is below this.
        rate: weight of an update in c.
        label_smoothing: of ascent and loss alike, since their gradients are compared; published without.
    """
    if not 0 < rate <= 1:
        raise SettingError(f"rate is {rate}; it must be above 0 and at most 1 (the authors' is 0.05)")
    ascent = LinearityStep(largest_alpha, tolerance, rate, label_smoothing)
    return Method(Uniform(), ascent, ScaledCrossEntropy(label_smoothing))
