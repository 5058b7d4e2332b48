"""Models whose figures deceive: each is as weak as the model inside it, and hides that in a way of its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tests.attacks.attack_models import Wrapped


class _Backward(torch.autograd.Function):
    """Identity with a backward pass of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


class Negated(Wrapped):
    """Backward returns the negated gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(_Backward.apply(x, torch.neg))


class Shuffled(Wrapped):
    """Backward returns a random gradient of about the right size."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(_Backward.apply(x, lambda grad: grad.std() * torch.randn_like(grad)))


class Leaking(Wrapped):
    """Pixels rounded to 16 levels, and a ripple far below them, of which alone the gradient knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((15 * x).round() / 15 + 1e-6 * (1e4 * x).sin())


class StraightThrough(Wrapped):
    """The 256 levels of a picture file, with the gradient of the identity: an honest model."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + ((255 * x).round() / 255 - x).detach())


class Watchful(Wrapped):
    """Other logits where someone asks for gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).roll(1, 1) if x.requires_grad else self.model(x)


class Deployed(Wrapped):
    """Other logits in inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).roll(1, 1) if torch.is_inference_mode_enabled() else self.model(x)


class Times(Wrapped):
    """Logits times a number."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__(model)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


class TwiceSoftmax(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.model(x).softmax(1)


class SeededByImage(Wrapped):
    """Noise that is the same whenever an image is the same."""

    def forward(self, x: Tensor) -> Tensor:
        seeds = [zlib.crc32(image.detach().cpu().numpy().tobytes()) for image in x]
        noise = [torch.randn(x.shape[1:], generator=Generator().manual_seed(seed)) for seed in seeds]
        return self.model(x + 0.1 * torch.stack(noise).to(x))


class OverflowingOffTheGrid(Wrapped):
    """No number for an image that is none of 17 grey levels, as digits are."""

    def forward(self, x: Tensor) -> Tensor:
        off = ((16 * x).round() / 16 - x).abs().amax((1, 2, 3)) > 1e-6
        return self.model(x) / torch.where(off, 0.0, 1.0).unsqueeze(1)


class OtherInBfloat16(Wrapped):
    """The negated gradient under autocast alone."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return self.model(_Backward.apply(x, torch.neg))
        return self.model(x)
