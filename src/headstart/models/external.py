"""Networks that others maintain: timm's, torchvision's, and the user's own by module and callable."""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from headstart.errors import SettingError
from headstart.models.normalize import normalized

log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXTERNAL = {
    "timm:NAME": "a network of timm, normalised as its weights are; model_args such as {pretrained: true}",
    "torchvision:NAME": "a network of torchvision, normalised as its weights are; model_args as for get_model",
    "module:callable": "a network of one's own, callable(classes=K, **model_args), installed or in the working folder",
}


def build_external(name: str, classes: int, channels: int, args: dict[str, Any]) -> nn.Module:
    """A network named ``origin:rest``; ``mean`` and ``std`` in ``args`` normalise inside it, null for not at all.

    Raises:
        SettingError: nothing of that name, an origin that is not installed, or arguments that it does not take.
    """
    origin, _, rest = name.partition(":")
    build = {"timm": _timm, "torchvision": _torchvision}.get(origin, _own)
    try:
        network, usual = build(
            name, rest, classes, channels, {k: v for k, v in args.items() if k not in ("mean", "std")}
        )
        mean, std = (args.get(key, usual.get(key)) for key in ("mean", "std"))
        return network if mean is None and std is None else normalized(network, mean, std)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError, SyntaxError) as error:
        raise SettingError(f"model {name}: {' '.join(str(error).split())}; called with classes={classes}") from error


FETCHING = {"timm": ("pretrained",), "torchvision": ("weights", "weights_backbone")}


def without_fetching(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a network that will get its weights elsewhere: those that fetch pretrained ones left out."""
    return {key: value for key, value in args.items() if key not in FETCHING.get(name.partition(":")[0], ())}


Built = tuple[nn.Module, dict[str, Any]]


def _timm(name: str, rest: str, classes: int, channels: int, args: dict[str, Any]) -> Built:
    timm = _vision(name, "timm")
    if not timm.is_model(rest):
        raise _no_such(name, timm.list_models())
    network = timm.create_model(rest, num_classes=classes, in_chans=channels, **args)
    usual = {key: network.pretrained_cfg.get(key) for key in ("mean", "std")}
    fits = all(value is not None and len(value) == channels for value in usual.values())
    return network, usual if fits else {}


def _torchvision(name: str, rest: str, classes: int, channels: int, args: dict[str, Any]) -> Built:
    torchvision = _vision(name, "torchvision")
    if rest not in torchvision.models.list_models(module=torchvision.models):
        raise _no_such(name, torchvision.models.list_models(module=torchvision.models))
    if channels != 3:
        raise ValueError(f"networks of torchvision read 3 channels; the images have {channels}")
    network = torchvision.models.get_model(rest, **{"weights": None, "num_classes": classes, **args})
    return network, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _own(name: str, rest: str, classes: int, channels: int, args: dict[str, Any]) -> Built:
    module = name.partition(":")[0]
    if os.getcwd() not in sys.path:  # the installed command starts without it; last, so that it shadows nothing
        sys.path.append(os.getcwd())
    build = cast(Callable[..., object], getattr(importlib.import_module(module), rest))
    network = build(classes=classes, **args)
    if not isinstance(network, nn.Module):
        raise SettingError(f"model {name} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network, {}


def _vision(name: str, package: str) -> ModuleType:
    try:
        return _imported(package)
    except (ImportError, OSError, RuntimeError) as error:  # a build for another torch fails in its own ways
        reason = str(error).splitlines()[0]
        raise SettingError(f'model {name} needs {package} ({reason}): pip install "headstart[vision]"') from error


NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _imported(package: str) -> ModuleType:
    """timm or torchvision, also where torchvision's compiled operators are of another build of torch.

    torchvision's Python part then stops at ``operator torchvision::nms does not exist``, though only detection calls
    that operator. A declaration of its schema, which nothing implements, lets the import go on; where the compiled
    operators load, nothing is declared.
    """
    try:
        importlib.import_module("torchvision")  # timm's networks read it too
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        log.info("torchvision's compiled operators do not fit torch %s; classifiers do without", torch.__version__)
        _declare_operators()
    return importlib.import_module(package)


@functools.cache
def _declare_operators() -> torch.library.Library:
    """Kept by the cache: what a library declares goes when it does."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + NMS)  # type: ignore[no-untyped-call]
    return library


def _no_such(name: str, names: Iterable[str]) -> SettingError:
    origin, _, rest = name.partition(":")
    near = difflib.get_close_matches(rest, names, n=3)
    hint = f"; did you mean {' or '.join(f'{origin}:{n}' for n in near)}?" if near else ""
    return SettingError(f"{origin} has no network {rest!r}{hint}")
