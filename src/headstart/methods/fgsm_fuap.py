"""Single-step training from noise plus a shared perturbation that the image's features choose."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import UserError
from headstart.methods.fgsm_uap import SOURCE, Universal
from headstart.methods.registry import register
from headstart.parts.aligned import aligned
from headstart.parts.losses import cross_entropy


class FeatureRouted(Universal):
    """delta0 = P(noise + u_k), k = argmax W1 q(x + noise), q the penultimate features and noise = box(U(epsilon)).

    The router W1, U x D, learns as the first layer of a classifier of q, W2 relu(W1 q), by Adam on every batch; k is
    taken before that update, from the same pass.
    """

    def __init__(
        self, info: TaskInfo, groups: int, *, relative_radius: float, decay: float, label_smoothing: float, lr: float
    ) -> None:
        super().__init__(info, groups, relative_radius=relative_radius, decay=decay)
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


@register("fgsm-fuap", source=SOURCE, passes="3F 1Bx 2B + router")
def build(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.4,
    groups: int | None = None,
    relative_radius: float = 1.25,
    decay: float = 0.3,
    router_lr: float = 1e-3,
) -> Method:
    """FGSM-FUAP: fgsm-uap with U perturbations, one chosen by the features of the noisy image and added to its noise.

    delta0 as in FeatureRouted; u's update, the step and the loss as in fgsm-uap.

    Args:
        groups: U; None is the published 50 at ten classes, 200 at a hundred, 300 at two hundred (where FastAT
            Benchmark's file has U and the number of classes swapped), else half as many again as classes.
        router_lr: Adam's learning rate for the router.
    """
    if not info.features:
        raise UserError("it routes by penultimate features; the network needs a linear layer at its end")
    init = FeatureRouted(
        info,
        groups or {10: 50, 100: 200, 200: 300}.get(info.classes, max(50, info.classes * 3 // 2)),
        relative_radius=relative_radius,
        decay=decay,
        label_smoothing=label_smoothing,
        lr=router_lr,
    )
    return aligned(init, weight, relative_alpha, label_smoothing)
