"""Pre-activation residual networks, with the common CIFAR state-dict names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from headstart.models.normalize import normalization
from headstart.models.pooled import PooledNetwork
from headstart.models.resnet import Activation, activation, conv, stage


class PreActBlock(nn.Module):
    """Batch-norm and activation before each 3x3 convolution (He et al., ECCV 2016)."""

    def __init__(self, in_width: int, width: int, stride: int, act: Activation, raw_shortcut: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_width), conv(in_width, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        changes = stride != 1 or in_width != width
        self.shortcut = nn.Sequential(conv(in_width, width, 1, stride)) if changes else None
        self.act, self.raw_shortcut = act, raw_shortcut

    def forward(self, x: Tensor) -> Tensor:
        pre = self.act(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else pre)
        out = self.conv1(pre)
        return cast(Tensor, self.conv2(self.act(self.bn2(out))) + skip)


class PreActResNet(PooledNetwork):
    """Pre-activation residual network with a 3x3 stem.

    Args:
        classes: number of classes K.
        channels: channels of the image.
        blocks: number of blocks per stage.
        stem: width of the stem.
        widths: width per stage; every stage but the first halves the size.
        final_norm: batch-norm and activation before pooling (Wong et al.; FastAT Benchmark leaves them out).
        raw_shortcut: shortcut convolutions read their block's input as it came (the code of Wong et al. and Rice et
            al.; the names are the same, so their weights need it), not after batch-norm and activation (He et al.).
        act, mirrored, mean, std: as in ResNet.

    ``forward`` maps images (B, C, H, W) in [0, 1], of any size of at least 8, to logits (B, K).
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        *,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        final_norm: bool = True,
        raw_shortcut: bool = False,
        act: str = "relu",
        mirrored: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mirrored)
        self.act = activation(act)
        self.normalize = normalization(mean, std, channels)
        self.conv1 = conv(channels, stem, 3)

        def make(in_width: int, width: int, stride: int) -> nn.Module:
            return PreActBlock(in_width, width, stride, self.act, raw_shortcut)

        self.stages = [f"layer{s + 1}" for s in range(len(widths))]
        in_width = stem
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            self.add_module(self.stages[s], stage(make, count, in_width, width, 1 if s == 0 else 2))
            in_width = width
        self.bn = nn.BatchNorm2d(in_width) if final_norm else None
        self.linear = nn.Linear(in_width, classes)

    def features(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))
        for name in self.stages:
            out = self.get_submodule(name)(out)
        if self.bn is not None:
            out = self.act(self.bn(out))
        return cast(Tensor, out.mean((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear(features))
