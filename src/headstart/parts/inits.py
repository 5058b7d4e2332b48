"""Initial perturbations."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core.method import Init
from headstart.core.step import Step
from headstart.core.target import Target


class Zero(Init):
    """delta0 = 0."""

    clock_free = True

    def forward(self, target: Target, step: Step) -> None:
        return None


class Uniform(Init):
    """delta0 = box(U(scale * epsilon)): uniform in a ball ``scale`` times the budget, clipped to the image box.

    Args:
        box: False leaves the noise as drawn.
    """

    clock_free = True

    def __init__(self, scale: float = 1.0, *, box: bool = True) -> None:
        super().__init__()
        self.scale, self.box = scale, box

    def forward(self, target: Target, step: Step) -> Tensor:
        noise = step.threat.uniform(step.x, self.scale)
        return step.threat.box(step.x, noise) if self.box else noise


class Gaussian(Init):
    """delta0 = std * N(0, 1), in pixel fractions whatever epsilon is; neither projected nor boxed."""

    clock_free = True

    def __init__(self, std: float = 0.001) -> None:
        super().__init__()
        self.std = std

    def forward(self, target: Target, step: Step) -> Tensor:
        return self.std * torch.randn_like(step.x)


class Bernoulli(Init):
    """delta0 = box(+-scale * epsilon), either sign with probability 1/2 per pixel and channel."""

    clock_free = True

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, target: Target, step: Step) -> Tensor:
        sign = torch.sign(0.5 - torch.rand_like(step.x))
        return step.threat.box(step.x, self.scale * step.threat.epsilon * sign)
