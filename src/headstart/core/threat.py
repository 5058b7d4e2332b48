"""The threat model: which perturbations an adversary may use."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from headstart.errors import SettingError, unknown
from headstart.fields import fraction_of_pixels

Radius = float | Tensor
"""In pixel fractions; a tensor of shape (), float64, where an update is recorded."""


class Norm(Protocol):
    """What a threat model asks of a norm. A further norm is one more class in ``NORMS``.

    All tensors have shape (B, C, H, W) and are in pixel fractions.

    Attributes:
        largest: the largest epsilon that makes sense, whatever the size of the images.
    """

    largest: float

    def project(self, delta: Tensor, epsilon: Radius) -> Tensor:
        """The nearest point to ``delta`` inside the ball of radius ``epsilon``."""
        ...

    def uniform(self, like: Tensor, epsilon: Radius, generator: Generator | None) -> Tensor:
        """A perturbation uniform in the ball, of the shape, type and device of ``like``."""
        ...

    def direction(self, grad: Tensor) -> Tensor:
        """The step of length 1 in this norm that raises a linear function with gradient ``grad`` most."""
        ...

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation, shape (B,)."""
        ...


class LInf:
    """The maximum norm: every pixel and channel moves by at most epsilon."""

    largest = 1.0

    def project(self, delta: Tensor, epsilon: Radius) -> Tensor:
        return delta.clamp(-epsilon, epsilon)  # type: ignore[arg-type]  # both are of one kind

    def uniform(self, like: Tensor, epsilon: Radius, generator: Generator | None) -> Tensor:
        noise = torch.empty_like(like)
        if isinstance(epsilon, Tensor):  # the same numbers to the bit, in a kernel more
            return torch.addcmul(-epsilon, noise.uniform_(generator=generator), 2 * epsilon)
        return noise.uniform_(-epsilon, epsilon, generator=generator)

    def direction(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)


class L2:
    """The Euclidean norm over all pixels and channels of an image.

    Clipping a perturbation of an image in [0, 1] to the image box only shortens it, so projecting and then clipping
    ends inside both, as for the maximum norm.
    """

    largest = math.inf

    def project(self, delta: Tensor, epsilon: Radius) -> Tensor:
        length = self.size(delta).clamp_min(torch.finfo(delta.dtype).tiny)
        return delta * (epsilon * length.reciprocal()).clamp_max(1).view(-1, 1, 1, 1)

    def uniform(self, like: Tensor, epsilon: Radius, generator: Generator | None) -> Tensor:
        # A Gaussian has no preferred direction, and of a ball in d dimensions the share r^d lies within r * epsilon.
        direction = self.direction(torch.empty_like(like).normal_(generator=generator))
        share = like.new_empty(len(like), 1, 1, 1).uniform_(generator=generator)
        return epsilon * share ** (1 / max(1, like[:1].numel())) * direction

    def direction(self, grad: Tensor) -> Tensor:
        # Scaled first: where the model is confident, the squares of the gradient are too small for float32.
        tiny = torch.finfo(grad.dtype).tiny
        scaled = grad / grad.flatten(1).abs().amax(1).clamp_min(tiny).view(-1, 1, 1, 1)
        return scaled / self.size(scaled).clamp_min(tiny).view(-1, 1, 1, 1)

    def size(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size


NORMS: dict[str, Norm] = {"linf": LInf(), "l2": L2()}


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of norm at most ``epsilon`` that keep the image in [0, 1].

    Args:
        epsilon: perturbation budget in pixel fractions, at least 0; at most 1 in the maximum norm.
        norm: a name in ``NORMS``.

    Raises:
        SettingError: epsilon is not a pixel fraction, or the norm is unknown.
    """

    epsilon: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        largest = NORMS[self.norm].largest
        if not 0 <= self.epsilon <= largest or math.isinf(self.epsilon):
            allowed = f"between 0 and {largest:g}" if math.isfinite(largest) else "of at least 0"
            hint = f"; did you mean {self.epsilon:g}/255?" if 1 < self.epsilon <= 255 else ""
            raise SettingError(
                f"epsilon is {fraction_of_pixels(self.epsilon)}; it must be a pixel fraction {allowed}{hint}"
            )

    def reading(self, epsilon: Tensor) -> ThreatModel:
        """The same, with an epsilon that is read from a tensor on the device whenever it is used.

        Only a recorded update has it; arithmetic in fp32 takes the tensor like the number, to the bit.

        Args:
            epsilon: shape (), float64, so that no product with a setting is rounded before its use; not checked.
        """
        threat = copy.copy(self)
        object.__setattr__(threat, "epsilon", epsilon)
        return threat

    def project(self, delta: Tensor) -> Tensor:
        """Onto the epsilon-ball; the image box is ``box``'s business."""
        return NORMS[self.norm].project(delta, self.epsilon)

    def box(self, x: Tensor, delta: Tensor) -> Tensor:
        """Clip ``delta`` so that x + delta lies in [0, 1]."""
        return torch.clamp(delta, -x, 1 - x)

    def uniform(self, x: Tensor, scale: float = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Uniform in the ball of radius scale * epsilon, not boxed; shape of ``x``.

        Args:
            generator: source of the numbers, on the device of ``x``; the global one where None.
        """
        return NORMS[self.norm].uniform(x, scale * self.epsilon, generator)

    def direction(self, grad: Tensor) -> Tensor:
        """Unit step of steepest ascent."""
        return NORMS[self.norm].direction(grad)

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation, shape (B,)."""
        return NORMS[self.norm].size(delta)
