"""A plain network for fast runs: patches, which may be whitened, and a few groups of 3x3 convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.models.normalize import normalization
from headstart.models.pooled import PooledNetwork
from headstart.models.resnet import Activation, activation, conv


class Group(nn.Module):
    """3x3 convolutions of one width, each with batch-norm and activation; max-pooled by two after the first."""

    def __init__(self, in_width: int, width: int, depth: int, act: Activation) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(in_width if d == 0 else width, width, 3) for d in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for d, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = layer(x)
            x = self.act(norm(F.max_pool2d(x, 2) if d == 0 else x))
        return x


class FastNet(PooledNetwork):
    """Patches, groups of 3x3 convolutions, the largest value per channel, a linear layer.

    After airbench (Jordan, arXiv 2404.00498), of which it keeps the shape and leaves out the initialisation by the
    identity and the batch-norm without weights.

    Args:
        classes: number of classes K.
        channels: channels C of the image.
        widths: width per group; every group halves the size.
        depth: convolutions per group.
        patch: side p of the patches that the first layer reads, in pixels; it makes 2 C p^2 values of each.
        stride: distance of the patches; 2 quarters the cost of everything after them.
        whiten: fix the first layer to the filters of ``initialise_from``, as airbench does. Without much ``ridge`` they
            answer to an adversary's noise more than to the image, and FGSM-RS collapses: see docs/fast.md.
        ridge: what is added to the eigenvalues when the filters are made, squared pixel fractions; airbench has 5e-4.
        scale: what the logits are multiplied by.
        act: activation name.
        mirrored, mean, std: as in ResNet.

    ``forward`` maps images (B, C, H, W) in [0, 1], each side at least p - 1 + stride * 2^groups, to logits (B, K);
    ``features`` to what the last layer reads.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        *,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        patch: int = 2,
        stride: int = 1,
        whiten: bool = False,
        ridge: float = 5e-4,
        scale: float = 1 / 9,
        act: str = "relu",
        mirrored: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mirrored)
        self.normalize = normalization(mean, std, channels)
        self.act, self.scale = activation(act), scale
        self.whitened, self.ridge = whiten, ridge
        width = 2 * channels * patch**2
        self.patches = nn.Conv2d(channels, width, patch, stride)
        self.patches.weight.requires_grad_(not whiten)
        self.groups = nn.Sequential()
        for group_width in widths:
            self.groups.append(Group(width, group_width, depth, self.act))
            width = group_width
        self.linear = nn.Linear(width, classes, bias=False)

    @torch.no_grad()
    def initialise_from(self, images: Tensor) -> None:
        """Set the first layer to the filters that whiten the patches of these images, each with both signs.

        The filters are the eigenvectors of the patches' covariance over the roots of their eigenvalues.

        Args:
            images: (B, C, H, W) in [0, 1].
        """
        if not self.whitened:
            return
        weight = self.patches.weight
        patches = F.unfold(self.normalize(images).double(), weight.shape[2:], stride=self.patches.stride)
        values, vectors = torch.linalg.eigh(torch.cov(patches.transpose(0, 1).flatten(1)))
        vectors = vectors * torch.where(vectors.sum(0) < 0, -1, 1)  # both signs solve the equation
        filters = (vectors / (values.clamp_min(0) + self.ridge).sqrt()).T
        weight.copy_(torch.cat([filters, -filters]).view(weight.shape))
        nn.init.zeros_(cast(Tensor, self.patches.bias))

    def features(self, x: Tensor) -> Tensor:
        out = self.groups(self.act(self.patches(self.normalize(x))))
        return cast(Tensor, out.amax((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear(features) * self.scale)
