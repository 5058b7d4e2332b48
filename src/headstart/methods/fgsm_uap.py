"""Single-step training from perturbations that many images share."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import WeightsError
from headstart.methods.registry import register
from headstart.parts.losses import cross_entropy
from headstart.parts.memory import normalised_l1
from headstart.parts.pairing import paired

Gradient = Literal["published", "equation"]
SOURCE = "Pan, Li, Yao, AAAI 2024"
PUBLISHED_RADIUS = 1.25  # over epsilon: 10/255 at 8/255. Without noise any value from 1 on gives the same start.


class Universal(Init):
    """delta0 = P(u_k), k the group of the sample; every group of a batch moves its u by one sign step of its momentum.

    With the mean over the group's samples in the batch: v_k <- mean(g / ||g||_1) + mu v_k, the norm over the whole
    batch; u_k <- clip(u_k + radius * sign v_k, -radius, radius). u begins at corners.

    The equation's g is the ascent's gradient, grad CE_s(f(x0), y) at x0 = x + delta0. The published code keeps it as a
    view of ``x0.grad``, and reads it after the backward of the weight update has added to the same memory. x0 is a leaf
    of the loss CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x0)) through f(x0) alone, since delta is detached.
    The published g is therefore the sum grad_x0 CE_s(f(x0), y) + lambda * grad_x0 MSE(f(x + delta), f(x0)). The second
    term comes from the weight update's own backward, at no cost; where a recipe accumulates gradients over parts of a
    batch it is weighted by the share of the part.

    Args:
        groups: number of perturbations.
        relative_radius: radius over epsilon. ``directions`` holds u / radius.
        decay: mu.
        gradient: which g.
    """

    clock_free = True

    def __init__(
        self, info: TaskInfo, groups: int, *, relative_radius: float, decay: float, gradient: Gradient
    ) -> None:
        super().__init__()
        self.relative_radius, self.decay, self.gradient = relative_radius, decay, gradient
        shape = groups, *info.image_shape
        self.directions: Tensor
        self.momenta: Tensor
        self.register_buffer("directions", torch.empty(shape).bernoulli_().mul_(2).sub_(1))
        self.register_buffer("momenta", torch.zeros(shape))

    def forward(self, target: Target, step: Step) -> Tensor:
        group = step.notes["group"] = self.assign(target, step)
        radius = self.relative_radius * step.threat.epsilon
        return step.threat.box(step.x, step.threat.project(self.start(step) + radius * self.directions[group]))

    def assign(self, target: Target, step: Step) -> Tensor:
        """The group of each sample, (B,) int64; here the only one."""
        return torch.zeros_like(step.y)

    def start(self, step: Step) -> Tensor | float:
        """What is added to u before the projection; nothing here."""
        return 0.0

    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        g, group = step.grad0, step.notes["group"]
        if self.gradient == "published":
            assert step.x0 is not None
            assert step.x0.grad is not None
            g = g + step.x0.grad
        g = normalised_l1(g)
        total = distributed.sum_(torch.zeros_like(self.momenta).index_add_(0, group, g))
        count = distributed.sum_(g.new_zeros(len(total)).index_add_(0, group, g.new_ones(len(g)))).view(-1, 1, 1, 1)
        v = total / count.clamp_min(1) + self.decay * self.momenta
        moved = (self.directions + step.threat.direction(v)).clamp(-1, 1)
        self.momenta.copy_(v.where(count > 0, self.momenta))
        self.directions.copy_(moved.where(count > 0, self.directions))


class Classwise(Universal):
    """One perturbation per class."""

    clock_free = True

    def assign(self, target: Target, step: Step) -> Tensor:
        return step.y


class FeatureRouted(Universal):
    """delta0 = P(noise + u_k), k = argmax W1 q(x + noise), q the penultimate features and noise = box(U(epsilon)).

    The router W1, U x D, learns as the first layer of a classifier of q, W2 relu(W1 q), by Adam on every batch; k is
    taken before that update, from the same pass.
    """

    def __init__(
        self,
        info: TaskInfo,
        groups: int,
        *,
        relative_radius: float,
        decay: float,
        gradient: Gradient,
        label_smoothing: float,
        lr: float,
    ) -> None:
        super().__init__(info, groups, relative_radius=relative_radius, decay=decay, gradient=gradient)
        self.label_smoothing = label_smoothing
        self.route, self.classify = nn.Linear(info.features, groups), nn.Linear(groups, info.classes)
        self.optimizer = torch.optim.Adam([*self.route.parameters(), *self.classify.parameters()], lr=lr)
        self.noise: Tensor | None = None

    def assign(self, target: Target, step: Step) -> Tensor:
        self.noise = step.threat.box(step.x, step.threat.uniform(step.x))
        target.record_features()
        with torch.no_grad():
            target(step.x + self.noise)
        assert target.features is not None
        routed = self.route(target.features.float())
        loss = cross_entropy(self.classify(F.relu(routed)), step.y, self.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.mean_(p.grad for p in self.optimizer.param_groups[0]["params"])
        self.optimizer.step()
        group: Tensor = routed.argmax(1)
        return group

    def start(self, step: Step) -> Tensor:
        assert self.noise is not None
        return self.noise

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


@register("fgsm-uap", source=SOURCE, passes="2F 1Bx 2B")
def uap(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    decay: float = 0.3,
    gradient: Gradient = "published",
) -> Method:
    """FGSM-UAP: a sign step from one perturbation that all images share, and logits held together.

    delta0 = P(u) and u's update as in Universal; delta = P(delta0 + alpha * sign grad CE_s(f(x + delta0), y)); loss
    CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)) on logits, both differentiated.

    Args:
        weight: lambda.
        label_smoothing: of loss and ascent.
        decay: mu.
        gradient: what u remembers. "equation" is that of CE_s at the start, "published" what the code has in that place
            by then, the gradient of CE_s + lambda * MSE (see Universal).
    """
    init = Universal(info, 1, relative_radius=PUBLISHED_RADIUS, decay=decay, gradient=gradient)
    return paired(init, weight, relative_alpha, label_smoothing)


@register("fgsm-cuap", source=SOURCE, passes="2F 1Bx 2B")
def cuap(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    decay: float = 0.3,
    gradient: Gradient = "published",
) -> Method:
    """FGSM-CUAP: fgsm-uap with one perturbation per class; classes absent from a batch keep theirs."""
    init = Classwise(info, info.classes, relative_radius=PUBLISHED_RADIUS, decay=decay, gradient=gradient)
    return paired(init, weight, relative_alpha, label_smoothing)


@register("fgsm-fuap", source=SOURCE, passes="3F 1Bx 2B + router")
def fuap(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    groups: int | None = None,
    relative_radius: float = PUBLISHED_RADIUS,
    decay: float = 0.3,
    gradient: Gradient = "published",
    router_lr: float = 1e-3,
) -> Method:
    """FGSM-FUAP: fgsm-uap with U perturbations, one chosen by the features of the noisy image and added to its noise.

    delta0 as in FeatureRouted; u's update, the step and the loss as in fgsm-uap.

    Args:
        groups: U; None is the published 50 at ten classes, 200 at a hundred, 300 at two hundred (where FastAT
            Benchmark's file has U and the number of classes swapped), else half as many again as classes.
        relative_radius: of u over epsilon; it matters here, where u is added to noise.
        router_lr: Adam's learning rate for the router.
    """
    if not info.features:
        raise WeightsError(
            "method fgsm-fuap routes by penultimate features; the network needs a linear layer at its end"
        )
    init = FeatureRouted(
        info,
        groups or {10: 50, 100: 200, 200: 300}.get(info.classes, max(50, info.classes * 3 // 2)),
        relative_radius=relative_radius,
        decay=decay,
        gradient=gradient,
        label_smoothing=label_smoothing,
        lr=router_lr,
    )
    return paired(init, weight, relative_alpha, label_smoothing)
