"""Residual networks with the state-dict names of CIFAR or of torchvision, so that published weights load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from headstart.errors import unknown
from headstart.models.normalize import normalization
from headstart.models.pooled import PooledNetwork

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def activation(name: str) -> Activation:
    """An activation by name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def conv(in_width: int, out_width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size up to its stride."""
    return nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False)


def stage(block: Callable[[int, int, int], nn.Module], count: int, in_width: int, width: int, stride: int) -> nn.Module:
    """``count`` times ``block(in_width, width, stride)``, of which the first changes width and size."""
    first = (in_width, width, stride)
    return nn.Sequential(*(block(*(first if b == 0 else (width, width, 1))) for b in range(count)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016).

    Args:
        skip: the shortcut's name in the state dict.
    """

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int, act: Activation, skip: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.add_module(skip, shortcut(in_width, width, stride))
        self.act, self.skip = act, skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(out)) + self.get_submodule(self.skip)(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut, a quarter as wide inside (He et al., CVPR 2016).

    The 3x3 convolution strides, as in torchvision and in the common CIFAR networks.
    """

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int, act: Activation, skip: str) -> None:
        super().__init__()
        inner = width // self.expansion
        self.conv1, self.bn1 = conv(in_width, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, width, 1), nn.BatchNorm2d(width)
        self.add_module(skip, shortcut(in_width, width, stride))
        self.act, self.skip = act, skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        return self.act(self.bn3(self.conv3(out)) + self.get_submodule(self.skip)(x))


def shortcut(in_width: int, out_width: int, stride: int) -> nn.Sequential:
    """Identity where shapes agree, else a 1x1 convolution with batch-norm."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    return nn.Sequential(conv(in_width, out_width, 1, stride), nn.BatchNorm2d(out_width))


class ResNet(PooledNetwork):
    """Residual network.

    Args:
        classes: number of classes K.
        channels: channels of the image.
        block: the residual block.
        blocks: number of blocks per stage.
        widths: width per stage, before the block's expansion; every stage but the first halves the size.
        stem: "cifar" is a 3x3 convolution, and names as in the common CIFAR networks (``shortcut``, ``linear``);
            "imagenet" a 7x7 convolution of stride 2 and a max-pool, and torchvision's names (``downsample``, ``fc``).
        stem_stride: of the first convolution of "cifar"; 2 quarters the cost of everything after it.
        act: activation name.
        mirrored: as in PooledNetwork.
        mean, std: normalisation per channel, pixel fractions; None for none.

    ``forward`` maps images (B, C, H, W) in [0, 1] to logits (B, K); ``features`` to what the last layer reads.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        blocks: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["cifar", "imagenet"] = "cifar",
        stem_stride: int = 1,
        act: str = "relu",
        mirrored: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mirrored)
        if stem not in ("cifar", "imagenet"):
            raise unknown("stem", stem, ("cifar", "imagenet"))
        large = stem == "imagenet"
        self.act = activation(act)
        self.normalize = normalization(mean, std, channels)
        self.conv1 = conv(channels, widths[0], 7, 2) if large else conv(channels, widths[0], 3, stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()

        def make(in_width: int, width: int, stride: int) -> nn.Module:
            return block(in_width, width, stride, self.act, "downsample" if large else "shortcut")

        self.stages = [f"layer{s + 1}" for s in range(len(widths))]
        in_width = widths[0]
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            out_width = width * block.expansion
            self.add_module(self.stages[s], stage(make, count, in_width, out_width, 1 if s == 0 else 2))
            in_width = out_width
        self.head = "fc" if large else "linear"
        self.add_module(self.head, nn.Linear(in_width, classes))

    def features(self, x: Tensor) -> Tensor:
        out = self.pool(self.act(self.bn1(self.conv1(self.normalize(x)))))
        for name in self.stages:
            out = self.get_submodule(name)(out)
        return cast(Tensor, out.mean((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.get_submodule(self.head)(features))
