"""Residual networks for small images, with the common CIFAR state-dict names, so that published weights load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.errors import unknown

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def activation(name: str) -> Activation:
    """An activation by name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Normalize(nn.Module):
    """(x - mean) / std per channel; the model's first layer, so that images stay in [0, 1] everywhere else.

    Not in the state dict: published weights and plain modules have no such entries.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)


def normalization(mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The first layer: identity unless a mean and a deviation are given."""
    return nn.Identity() if mean is None or std is None else Normalize(mean, std)


def conv(in_width: int, out_width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size up to its stride."""
    return nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int, act: Activation) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = shortcut(in_width, width, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut, four times as wide outside (He et al., CVPR 2016)."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int, act: Activation) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_width, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(in_width, 4 * width, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        return self.act(self.bn3(self.conv3(out)) + self.shortcut(x))


def shortcut(in_width: int, out_width: int, stride: int) -> nn.Sequential:
    """Identity where shapes agree, else a 1x1 convolution with batch-norm."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    return nn.Sequential(conv(in_width, out_width, 1, stride), nn.BatchNorm2d(out_width))


class ResNet(nn.Module):
    """Residual network with a 3x3 stem and no max-pool.

    Args:
        classes: number of classes K.
        channels: channels of the image.
        block: the residual block.
        blocks: number of blocks per stage.
        widths: width per stage; every stage but the first halves the size.
        stem_stride: 2 quarters the cost of everything after the stem.
        act: activation name.
        mean, std: normalisation per channel, pixel fractions; None for none.

    ``forward`` maps images (B, C, H, W) in [0, 1] to logits (B, K); ``features`` to what ``linear`` reads.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        blocks: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_stride: int = 1,
        act: str = "relu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.act = activation(act)
        self.normalize = normalization(mean, std)
        self.conv1, self.bn1 = conv(channels, widths[0], 3, stem_stride), nn.BatchNorm2d(widths[0])
        self.stages: list[str] = []
        width_in = widths[0]
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = nn.Sequential()
            for b in range(count):
                stage.append(block(width_in, width, 2 if s > 0 and b == 0 else 1, self.act))
                width_in = width * block.expansion
            self.add_module(f"layer{s + 1}", stage)
            self.stages.append(f"layer{s + 1}")
        self.linear = nn.Linear(width_in, classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled penultimate features (B, D)."""
        out = self.act(self.bn1(self.conv1(self.normalize(x))))
        for stage in self.stages:
            out = self.get_submodule(stage)(out)
        return out.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(self.features(x)))
