"""Single-step training from perturbations that many images share."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.aligned import aligned
from headstart.parts.memory import normalised_l1

SOURCE = "Pan, Li, Yao, AAAI 2024"


class Universal(Init):
    """delta0 = P(u_k), k the group of the sample; every group of a batch moves its u by one sign step of its momentum.

    With g the ascent's gradient and the mean over the group's samples in the batch: v_k <- mean(g / ||g||_1) + mu v_k,
    the norm over the whole batch; u_k <- clip(u_k + radius * sign v_k, -radius, radius). u begins at corners.

    Args:
        groups: number of perturbations.
        relative_radius: radius over epsilon. ``directions`` holds u / radius.
        decay: mu.
    """

    def __init__(self, info: TaskInfo, groups: int, *, relative_radius: float, decay: float) -> None:
        super().__init__()
        self.relative_radius, self.decay = relative_radius, decay
        shape = groups, *info.image_shape
        self.directions: Tensor
        self.momenta: Tensor
        self.group: Tensor | None = None
        self.register_buffer("directions", torch.empty(shape).bernoulli_().mul_(2).sub_(1))
        self.register_buffer("momenta", torch.zeros(shape))

    def forward(self, target: Target, step: Step) -> Tensor:
        self.group = self.assign(target, step)
        radius = self.relative_radius * step.threat.epsilon
        return step.threat.box(step.x, step.threat.project(self.start(step) + radius * self.directions[self.group]))

    def assign(self, target: Target, step: Step) -> Tensor:
        """The group of each sample, (B,) int64; here the only one."""
        return torch.zeros_like(step.y)

    def start(self, step: Step) -> Tensor | float:
        """What is added to u before the projection; nothing here."""
        return 0.0

    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        assert self.group is not None
        g = normalised_l1(step.grad0)
        total = distributed.sum_(torch.zeros_like(self.momenta).index_add_(0, self.group, g))
        count = distributed.sum_(g.new_zeros(len(total)).index_add_(0, self.group, g.new_ones(len(g)))).view(
            -1, 1, 1, 1
        )
        v = total / count.clamp_min(1) + self.decay * self.momenta
        moved = (self.directions + step.threat.direction(v)).clamp(-1, 1)
        self.momenta.copy_(v.where(count > 0, self.momenta))
        self.directions.copy_(moved.where(count > 0, self.directions))


class Classwise(Universal):
    """One perturbation per class."""

    def assign(self, target: Target, step: Step) -> Tensor:
        return step.y


@register("fgsm-uap", source=SOURCE, passes="2F 1Bx 2B")
def build(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    relative_radius: float = 1.25,
    decay: float = 0.3,
) -> Method:
    """FGSM-UAP: a sign step from one perturbation that all images share, and logits held together.

    delta0 = P(u) and u's update as in Universal; delta = P(delta0 + alpha * sign grad CE_s(f(x + delta0), y)); loss
    CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)) on logits, both differentiated.

    Args:
        weight: lambda.
        label_smoothing: of loss and ascent.
        relative_radius: of u over epsilon; published 10/255 at 8/255. Without noise any value from 1 on is the same.
        decay: mu.
    """
    init = Universal(info, 1, relative_radius=relative_radius, decay=decay)
    return aligned(init, weight, relative_alpha, label_smoothing)


@register("fgsm-cuap", source=SOURCE, passes="2F 1Bx 2B")
def build_classwise(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    relative_radius: float = 1.25,
    decay: float = 0.3,
) -> Method:
    """FGSM-CUAP: fgsm-uap with one perturbation per class; classes absent from a batch keep theirs."""
    init = Classwise(info, info.classes, relative_radius=relative_radius, decay=decay)
    return aligned(init, weight, relative_alpha, label_smoothing)
