"""The generator of FGSM-SDI: proposes an initial perturbation from an image and the sign of its loss gradient."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from headstart.errors import UserError


class ResidualBlock(nn.Module):
    """x + conv(prelu(bn(conv(prelu(bn(x)))))), width unchanged, batch-norm without affine parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(width, width, 3, padding=1)
            nn.init.xavier_uniform_(conv.weight, gain=2**0.5)
            layers += [nn.BatchNorm2d(width, affine=False), nn.PReLU(), conv]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))


class Generator(nn.Module):
    """Fully convolutional network of Jia et al., TIP 2022; the published one has width 64.

    Args:
        in_channels: channels of the conditioning input, (B, in_channels, H, W).
        out_channels: channels of the image.
        width: channels inside; 64 in the paper. At full resolution it can cost more than a small target network.

    ``forward`` returns tanh outputs (B, out_channels, H, W) in (-1, 1), to be multiplied by epsilon.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"generator width is {width}; it must be at least 1 (the paper's is 64)")
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.ReLU(inplace=True),
            ResidualBlock(width),
            nn.BatchNorm2d(width, affine=False),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        proposal = cast(Tensor, self.layers(h))
        return torch.tanh(proposal.to(torch.promote_types(proposal.dtype, torch.float32)))
