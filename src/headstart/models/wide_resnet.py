"""Wide residual networks, with the state-dict names of TRADES and RobustBench, so that published weights load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from headstart.models.normalize import normalization
from headstart.models.pooled import PooledNetwork
from headstart.models.resnet import Activation, activation, conv, stage


class WideBlock(nn.Module):
    """A pre-activation block; only a change of width needs the shortcut's convolution."""

    def __init__(self, in_width: int, width: int, stride: int, act: Activation) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_width), conv(in_width, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.convShortcut = conv(in_width, width, 1, stride) if in_width != width else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        pre = self.act(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(pre)
        return cast(Tensor, self.conv2(self.act(self.bn2(self.conv1(pre)))) + skip)


class WideResNet(PooledNetwork):
    """WideResNet of Zagoruyko and Komodakis (BMVC 2016), 6 blocks + 4 layers deep.

    Args:
        classes: number of classes K.
        channels: channels of the image.
        depth: 6 n + 4, with n blocks in each of three stages.
        widen: width of the first stage in units of 16; every further stage doubles width and halves the size.
        act, mirrored, mean, std: as in ResNet.

    ``forward`` maps images (B, C, H, W) in [0, 1], of any size of at least 4, to logits (B, K).
    """

    unread = ("sub_block1.",)
    """Prefixes of weights in published files that no forward pass reads: TRADES builds its first block twice."""

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        *,
        depth: int = 28,
        widen: int = 10,
        act: str = "relu",
        mirrored: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mirrored)
        if depth % 6 != 4 or depth < 10:
            raise ValueError(f"depth is {depth}; it must be 6 n + 4, such as 28 or 34")
        self.act = activation(act)
        self.normalize = normalization(mean, std, channels)
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = conv(channels, widths[0], 3)

        def make(in_width: int, width: int, stride: int) -> nn.Module:
            return WideBlock(in_width, width, stride, self.act)

        def block(s: int, stride: int) -> nn.Module:
            return nn.Sequential(OrderedDict(layer=stage(make, depth // 6, widths[s - 1], widths[s], stride)))

        self.block1, self.block2, self.block3 = block(1, 1), block(2, 2), block(3, 2)
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        return self.act(self.bn1(out)).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.fc(features))
