"""The network as attacks query it: the same function of the image, at a smaller price."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.attacks.scores import input_gradient, margin
from headstart.threat import ThreatModel

ROUNDING = 1e-4
"""Differences of logits below this share of the largest are rounding; batch sizes and layouts alone make 1e-6."""


class Bfloat16(nn.Module):
    """Convolutions and matrix products of the model in bfloat16, logits in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.model(x)
        return logits.float()


class Remembering:
    """A model that classifies no image twice; for small images, where Square asks most of its questions repeatedly.

    Square changes one random square at a time. Once these are single pixels, a few hundred changes are all there are,
    half of them change nothing, and Square asks thousands of times. Images are told apart by a 64-bit sum of their
    bits under random weights; of two different images with the same sum, which chance alone does not produce, one
    would mislead the search, not the verdict.

    Args:
        model: whose logits (B, K) for an image depend on that image alone.
        capacity: logits remembered before all are forgotten.
    """

    def __init__(self, model: nn.Module, capacity: int = 100_000) -> None:
        self.model, self.capacity = model, capacity
        self.rows: dict[int, int] = {}
        self.logits: Tensor | None = None
        self.weights: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K), of fp32 images (B, C, H, W)."""
        if self.weights is None:
            draw = torch.Generator().manual_seed(0)
            odd = torch.randint(-(2**62), 2**62, (x.shape[1:].numel(),), generator=draw) * 2 + 1
            self.weights = odd.to(x.device)
        keys = (x.contiguous().view(torch.int32).flatten(1) * self.weights).sum(1).tolist()
        new = {key: i for i, key in enumerate(keys) if key not in self.rows}
        if len(self.rows) + len(new) > self.capacity:
            self.rows.clear()
            new = {key: i for i, key in enumerate(keys)}
        if new:
            logits = self.model(x[list(new.values())])
            if self.logits is None:
                self.logits = logits.new_empty(self.capacity + len(x), logits.shape[1])
            first = len(self.rows)
            self.logits[first : first + len(new)] = logits
            self.rows.update(zip(new, range(first, first + len(new)), strict=True))
        assert self.logits is not None
        return self.logits[[self.rows[key] for key in keys]]


@torch.no_grad()
def differs(logits: Tensor, again: Tensor) -> bool:
    """Whether two sets of logits (B, K) of the same images differ by more than rounding."""
    return bool((logits - again).abs().max() > ROUNDING * logits.abs().max())


def folded(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> nn.Module | None:
    """A channels-last copy in which batch-norm is part of the convolution before it.

    A convolution and the batch-norm that follows are one affine map once the statistics are fixed. Only a copy with
    the logits and the input gradients of the model, at the images and beside them, is returned: what cannot be traced
    is answered with None, and so is a model that is random or that alters its gradient.

    Args:
        model: in evaluation mode.
        x: images (B, C, H, W) and ``y`` labels (B,) to compare at.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return None
    try:
        copy: Any = fuse(model)
    except Exception:  # tracing runs the model's own code on stand-ins for tensors, which can fail in every way
        return None
    copy = copy.to(memory_format=torch.channels_last)
    beside = x + threat.box(x, threat.project(threat.uniform(x)))
    for point in (x, beside):
        (grad, logits), (grad2, logits2) = (input_gradient(m, point, y, margin) for m in (model, copy))
        # Rounding alone switches a ReLU here and there, and with it some pixels of the gradient.
        if differs(logits, logits2) or not bool((grad - grad2).norm() <= 0.01 * grad.norm()):
            return None
    result: nn.Module = copy
    return result
