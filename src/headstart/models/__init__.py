"""Networks by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from headstart.errors import UserError, unknown
from headstart.models.preact_resnet import PreActResNet
from headstart.models.resnet import Bottleneck, ResNet


@dataclass(frozen=True)
class ModelEntry:
    """A network by name: ``build(classes, channels, **model_args)``."""

    build: Callable[..., nn.Module]
    summary: str


_wide = functools.partial(PreActResNet, stem=16, widths=(160, 320, 640))
MODELS: dict[str, ModelEntry] = {
    "small": ModelEntry(
        functools.partial(ResNet, blocks=(1, 1), widths=(16, 32)),
        "two residual blocks of width 16 and 32, for the demo; widths, blocks and stem_stride can be set",
    ),
    "resnet18": ModelEntry(ResNet, "ResNet-18 with the 3x3 stem of CIFAR, 11.2 M parameters"),
    "resnet34": ModelEntry(functools.partial(ResNet, blocks=(3, 4, 6, 3)), "ResNet-34 with the 3x3 stem of CIFAR"),
    "resnet50": ModelEntry(
        functools.partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck), "ResNet-50 with the 3x3 stem of CIFAR"
    ),
    "preact-resnet18": ModelEntry(PreActResNet, "PreActResNet-18, any image size; final_norm as in Wong et al."),
    "wide-resnet28-10": ModelEntry(functools.partial(_wide, blocks=(4, 4, 4)), "WideResNet-28-10, pre-activation"),
    "wide-resnet34-10": ModelEntry(functools.partial(_wide, blocks=(5, 5, 5)), "WideResNet-34-10, pre-activation"),
}


def build_model(name: str, classes: int, channels: int = 3, args: dict[str, Any] | None = None) -> nn.Module:
    """A network by name, or by ``module:callable`` for one's own, called as callable(classes=K, **args).

    Raises:
        UserError: no such name, module or callable, or an argument the network does not take.
    """
    if ":" in name:
        return _import_model(name, classes, args or {})
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    try:
        return MODELS[name].build(classes, channels, **(args or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name}: {error}; see model_args in the recipe") from error


def _import_model(name: str, classes: int, args: dict[str, Any]) -> nn.Module:
    module, _, attribute = name.partition(":")
    try:
        build = getattr(importlib.import_module(module), attribute)
        model = build(classes=classes, **args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"model {name}: {error}; give module:callable, called with classes={classes}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model
