"""Networks by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core.modes import evaluating
from headstart.errors import SettingError, WeightsError, unknown
from headstart.models.external import EXTERNAL, IMAGENET_MEAN, IMAGENET_STD, build_external
from headstart.models.fast_net import FastNet
from headstart.models.normalize import normalization_of, normalized
from headstart.models.preact_resnet import PreActResNet
from headstart.models.resnet import Bottleneck, ResNet
from headstart.models.wide_resnet import WideResNet

__all__ = ["EXTERNAL", "MODELS", "ModelEntry", "build_model", "check_network", "normalization_of", "normalized"]


@dataclass(frozen=True)
class ModelEntry:
    """A network by name: ``build(classes, channels, **model_args)``."""

    build: Callable[..., nn.Module]
    summary: str


_deep = functools.partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck)
_imagenet: dict[str, Any] = {"stem": "imagenet", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
MODELS: dict[str, ModelEntry] = {
    "small": ModelEntry(
        functools.partial(ResNet, blocks=(1, 1), widths=(16, 32)),
        "two residual blocks of width 16 and 32, for the demo; widths, blocks and stem_stride can be set",
    ),
    "fast": ModelEntry(
        FastNet, "patches and six 3x3 convolutions, for short runs; widths, depth, stride and whiten can be set"
    ),
    "resnet18": ModelEntry(ResNet, "ResNet-18 with the 3x3 stem of CIFAR, 11.2 M parameters"),
    "resnet34": ModelEntry(functools.partial(ResNet, blocks=(3, 4, 6, 3)), "ResNet-34 with the 3x3 stem of CIFAR"),
    "resnet50": ModelEntry(_deep, "ResNet-50 with the 3x3 stem of CIFAR"),
    "preact-resnet18": ModelEntry(
        PreActResNet, "PreActResNet-18, any image size; final_norm and raw_shortcut choose among the published forms"
    ),
    "wide-resnet28-10": ModelEntry(WideResNet, "WideResNet-28-10, as in TRADES and RobustBench, 36.5 M parameters"),
    "wide-resnet34-10": ModelEntry(
        functools.partial(WideResNet, depth=34), "WideResNet-34-10, as in TRADES and RobustBench, 46.2 M parameters"
    ),
    "imagenet-resnet18": ModelEntry(
        functools.partial(ResNet, **_imagenet), "ResNet-18 with torchvision's stem and names, ImageNet's normalisation"
    ),
    "imagenet-resnet50": ModelEntry(
        functools.partial(_deep, **_imagenet), "ResNet-50 with torchvision's stem and names, ImageNet's normalisation"
    ),
}


def build_model(name: str, classes: int, channels: int = 3, args: dict[str, Any] | None = None) -> nn.Module:
    """A network by name: one of ``MODELS``, ``timm:NAME``, ``torchvision:NAME`` or ``module:callable``.

    Args:
        classes: number of classes K.
        channels: channels of the image.
        args: further arguments of the network; ``mean`` and ``std`` normalise inside any network.

    Raises:
        SettingError: no such name, module or callable, or an argument the network does not take.
    """
    if ":" in name:
        return build_external(name, classes, channels, args or {})
    if name not in MODELS:
        raise unknown("model", name, [*MODELS, *EXTERNAL])
    try:
        return MODELS[name].build(classes, channels, **(args or {}))
    except (TypeError, ValueError) as error:
        raise SettingError(f"model {name}: {error}; see model_args in the recipe") from error


@torch.no_grad()
def check_network(network: nn.Module, shape: tuple[int, int, int], classes: int, data: str) -> None:
    """See that a network maps images to logits; every layer stays in its mode.

    Args:
        shape: (C, H, W) of the images.
        classes: K that the logits (B, K) must have.
        data: name of the data set, for the message.

    Raises:
        WeightsError: it fails on such images, or returns something else.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with evaluating(network):
            logits = network(torch.zeros(2, *shape, device=device))
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:  # networks refuse in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"the network does not take images of shape {shape}, as in {data}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WeightsError(
            f"the network maps two images to {returned}; {data} has {classes} classes, so logits (2, {classes})"
        )
