"""From a run folder, a weights file, the hub or a name to a network that classifies."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from headstart.errors import WeightsError
from headstart.models import build_model, normalized, without_fetching
from headstart.models.weights import Weights, in_words, load_into, read_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A network ready for evaluation, and what its file says of it: data, epsilon, norm, classes."""

    network: nn.Module
    origin: dict[str, str]


def load_classifier(
    source: str | Path,
    *,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    classes: int = 10,
) -> Classifier:
    """What ``read_weights`` takes, in its network; or a network by module:callable, timm:NAME or torchvision:NAME.

    A file that says which network it belongs to needs no ``model``. One that carries a normalisation beside the
    network gets it as the network's first layer, which is logged, unless ``model_args`` names one.

    Args:
        classes: of the network, where the file does not say.

    Raises:
        WeightsError: nothing there, an unreadable file or one with code in it, or weights of another network.
        SettingError: no network of that name, or arguments that it does not take.
    """
    text = str(source)
    if ":" in text and not text.startswith("hub:") and not Path(source).exists():
        network = build_model(text, classes, args=model_args)
        return Classifier(network, _channels(network))
    weights = read_weights(source)
    name = _network_of(weights, model)
    own = name == weights.origin.get("model")
    args = model_args if model_args is not None else weights.model_args if own else {}
    if "classes" in weights.origin:
        classes = len(json.loads(weights.origin["classes"]))
    channels = int(weights.origin.get("channels", _stem_channels(weights.tensors)))
    network = build_model(name, classes, channels, without_fetching(name, args))
    found = load_into(network, weights, name)
    if found.normalization and not {"mean", "std"} & args.keys():
        normalized(network, **found.normalization)
        log.info("%s: %s becomes the network's first layer", weights.name, in_words(found.normalization))
    return Classifier(network, {**_channels(network), **weights.origin})


def read_weights(source: str | Path) -> Weights:
    """A run folder, ``hub:OWNER/NAME``, a .safetensors file, or a state dict saved by torch, bare or under a key.

    Raises:
        WeightsError: nothing there, not complete, no state dict, or a pickle that holds code.
    """
    path = Path(source)
    if str(source).startswith("hub:"):
        from headstart.runs.hub import fetch  # needs the extra of that name

        path = fetch(str(source).removeprefix("hub:"))
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise WeightsError(f"{path.parent} has no model.safetensors; is the run finished? resume it")
    if not path.exists():
        raise WeightsError(
            f"{source} does not exist; give a run folder, a weights file, hub:OWNER/NAME or module:callable"
        )
    return read_file(path, str(source) if str(source).startswith("hub:") else None)


def _network_of(weights: Weights, model: str | None) -> str:
    """The name of the network that weights belong to, ``model`` where it is given."""
    name = model or weights.origin.get("model")
    if name is None:
        raise WeightsError(f"{weights.name} does not say which network it belongs to; give its name as model")
    if name.startswith("python:"):
        raise WeightsError(
            f"{weights.name} belongs to the network {name.removeprefix('python:')} given from Python; name a function "
            "that builds it as model module:callable"
        )
    return name


def _stem_channels(tensors: dict[str, Tensor]) -> int:
    """Channels of the images by the first convolution's weights; 3 where none has the usual name."""
    first = min((name for name in tensors if name.endswith("conv1.weight")), key=len, default=None)
    return 3 if first is None else tensors[first].shape[1]


def _channels(network: nn.Module) -> dict[str, str]:
    """Channels of the images by the network's first convolution; nothing where it has none."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return {} if first is None else {"channels": str(first.in_channels)}
