"""Training by a linearised inner problem whose effect on the weights is differentiated too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import GraphKey, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import NoAscent
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy

INSIDE = 1e-7  # how far from its bounds, in pixel fractions, an entry of the perturbation counts as free


class FastBAT(Method):
    """Two raw-gradient steps, then the weight update with the implicit gradient of the inner problem.

    With S the cross-entropy summed over the batch: delta1 = P(delta0 + a * grad S(x + delta0)), G1 = grad S(x +
    delta1), delta2 = P(delta1 + a * G1). The weights descend (S(x + delta2) + <G1, q>) / B, in which G1 is
    differentiated and q = H * grad S(x + delta2) / lambda is constant; H = 1 where delta2 is inside its bounds.
    """

    def __init__(self, alpha: float, penalty: float) -> None:
        super().__init__(Uniform(), NoAscent(), CrossEntropy())
        self.alpha, self.penalty = alpha, penalty

    def forward(self, target: Target, step: Step) -> Tensor:
        x, threat = step.x, step.threat

        def total(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, step.y, reduction="sum")

        def stepped(delta: Tensor, grad: Tensor) -> Tensor:
            return threat.box(x, threat.project(delta + self.alpha * grad.detach()))

        step.delta0 = self.init(target, step)
        assert step.delta0 is not None
        step.grad0, step.logits0 = target.ascend(x + step.delta0, total)
        delta1 = stepped(step.delta0, step.grad0)
        g1, _ = target.ascend(x + delta1, total, create=True)
        step.delta = stepped(delta1, g1).requires_grad_()
        step.logits = target.descend(x + step.delta)  # this one pass serves both gradients at delta2
        loss = total(step.logits)
        (g2,) = torch.autograd.grad(loss, step.delta, retain_graph=True)
        target.passes.input_gradients += 1
        lower, upper = (-x).clamp_min(-threat.epsilon), (1 - x).clamp_max(threat.epsilon)
        delta2 = step.delta = step.delta.detach()
        inside = (delta2 > lower + INSIDE) & (delta2 < upper - INSIDE)
        return (loss + (g1 * g2 * inside).sum() / self.penalty) / len(x)

    def graph_key(self, step: Step) -> GraphKey:
        return ()  # it asks nothing but tensors


@register(
    "fast-bat", source="Zhang, Zhang, Khanduri, Hong, Chang, Liu, ICML 2022", passes="3F 3Bx 1B + double backward"
)
def build(info: TaskInfo, alpha: float | None = None, penalty: float = 10.0) -> Method:
    """Fast-BAT: bi-level training; the attack's dependence on the weights enters the weight update in closed form.

    Steps and loss as in FastBAT, from delta0 = box(U(epsilon)). The published code makes two passes at x + delta2
    where one serves both gradients, and so moves batch-norm statistics once more. The loss reported includes the
    correction. H assumes the maximum norm. The double backward runs uncompiled.

    Args:
        alpha: step size a on the raw gradient of the summed loss, in pixel fractions per unit of it; None is the
            published 5000/255, 2000/255 above 8/255.
        penalty: lambda.
    """
    if alpha is None:
        alpha = (5000 if info.threat.epsilon < 8.01 / 255 else 2000) / 255
    return FastBAT(alpha, penalty)
