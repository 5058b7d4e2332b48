"""Initial perturbations."""

from __future__ import annotations

from torch import Tensor

from headstart.core.method import Init
from headstart.core.step import Step
from headstart.core.target import Target


class Zero(Init):
    """delta0 = 0."""

    def forward(self, target: Target, step: Step) -> None:
        return None


class Uniform(Init):
    """delta0 = box(U(scale * epsilon)): uniform in a ball ``scale`` times the budget, clipped to the image box."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, target: Target, step: Step) -> Tensor:
        return step.threat.box(step.x, step.threat.uniform(step.x, self.scale))
