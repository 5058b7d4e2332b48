"""The threat model: which perturbations an adversary may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headstart.errors import UserError, unknown


class Norm(Protocol):
    """What a threat model asks of a norm. A further norm is one more class in ``NORMS``.

    All tensors have shape (B, C, H, W) and are in pixel fractions.
    """

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """The nearest point to ``delta`` inside the ball of radius ``epsilon``."""
        ...

    def uniform(self, like: Tensor, epsilon: float) -> Tensor:
        """A random perturbation inside the ball, of the shape, type and device of ``like``."""
        ...

    def direction(self, grad: Tensor) -> Tensor:
        """The step of length 1 in this norm that raises a linear function with gradient ``grad`` most."""
        ...

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation, shape (B,)."""
        ...


class LInf:
    """The maximum norm: every pixel and channel moves by at most epsilon."""

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        return delta.clamp(-epsilon, epsilon)

    def uniform(self, like: Tensor, epsilon: float) -> Tensor:
        return torch.empty_like(like).uniform_(-epsilon, epsilon)

    def direction(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)


NORMS: dict[str, Norm] = {"linf": LInf()}


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of norm at most ``epsilon`` that keep the image in [0, 1].

    Args:
        epsilon: perturbation budget in pixel fractions, 0 < epsilon <= 1.
        norm: a name in ``NORMS``.

    Raises:
        UserError: epsilon is not a pixel fraction, or the norm is unknown.
    """

    epsilon: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if not 0 <= self.epsilon <= 1:
            hint = f"; did you mean {self.epsilon:g}/255?" if 1 < self.epsilon <= 255 else ""
            raise UserError(f"epsilon is {self.epsilon:g}; it must be a pixel fraction between 0 and 1{hint}")

    def project(self, delta: Tensor) -> Tensor:
        """Onto the epsilon-ball; the image box is ``box``'s business."""
        return NORMS[self.norm].project(delta, self.epsilon)

    def box(self, x: Tensor, delta: Tensor) -> Tensor:
        """Clip ``delta`` so that x + delta lies in [0, 1]."""
        return torch.clamp(delta, -x, 1 - x)

    def uniform(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Random perturbation of radius scale * epsilon, not boxed; shape of ``x``."""
        return NORMS[self.norm].uniform(x, scale * self.epsilon)

    def direction(self, grad: Tensor) -> Tensor:
        """Unit step of steepest ascent."""
        return NORMS[self.norm].direction(grad)

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation, shape (B,)."""
        return NORMS[self.norm].size(delta)
