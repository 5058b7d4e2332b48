"""Weights from files of any origin into networks of any origin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headstart.core.layers import output_layer
from headstart.errors import WeightsError

PLAIN_FORMATS = (".pt", ".pth", ".tar", ".bin", ".ckpt")
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
MEANS, DEVIATIONS = ("mean", "mu", "new_mean"), ("std", "sigma", "new_std")  # what normalising layers call theirs


@dataclass(frozen=True)
class Weights:
    """A weights file.

    Attributes:
        name: the file, for messages.
        tensors: by name, as they stand in the file.
        origin: what the file says of them, such as model, model_args, classes, data and epsilon; often nothing.
    """

    name: str
    tensors: dict[str, Tensor]
    origin: dict[str, str]

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments of the network that the file names."""
        return dict(json.loads(self.origin.get("model_args", "{}")))


# -- reading ---------------------------------------------------------------------------------------------------


def read_file(path: Path, name: str | None = None) -> Weights:
    """A .safetensors file, or a state dict saved by torch, bare or under a key.

    Args:
        name: for messages; default the path.

    Raises:
        WeightsError: not complete, no state dict, or a pickle that holds code.
    """
    tensors, origin = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_plain(path), {})
    return Weights(name or str(path), tensors, origin)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({error})") from error


def _read_plain(path: Path) -> dict[str, Tensor]:
    if path.suffix not in PLAIN_FORMATS:
        raise WeightsError(f"{path} has an unknown ending; allowed: .safetensors, {', '.join(PLAIN_FORMATS)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a different type for every way in which a file can be broken
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise WeightsError(f"{path} is truncated, or no file of torch.save") from error
        raise WeightsError(
            f"{path} is a pickle with code ({code[1]}), which is refused; where you trust it, save its state dict alone"
        ) from error
    while isinstance(content, dict) and (keys := [key for key in WRAPPER_KEYS if isinstance(content.get(key), dict)]):
        content = content[keys[0]]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state dict; save model.state_dict()")
    return content


# -- fitting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """What a file held beside the weights that a network took.

    Attributes:
        normalization: ``mean`` and ``std`` per channel, as tensors or in what the file says of itself; or empty.
        old_classes: classes of the file's last layer where the network's own stayed as it was.
    """

    normalization: dict[str, list[float]]
    old_classes: int | None = None


def load_into(network: nn.Module, weights: Weights, name: str, *, new_head: bool = False) -> Loaded:
    """Put weights into the network they belong to. They may stand under a prefix such as ``module.`` or ``1.``.

    Args:
        name: of the network, for messages.
        new_head: leave the last layer as it is where only the class count differs.

    Raises:
        WeightsError: names are missing or left over, or shapes differ.
    """
    own = network.state_dict()
    prefix = _prefix(weights.tensors, own)
    taken = {mine: weights.tensors[prefix + mine] for mine in own if prefix + mine in weights.tensors}
    unread = tuple(prefix + name for name in getattr(network, "unread", ()))
    extra = {
        n: t
        for n, t in weights.tensors.items()
        if not (n.startswith(prefix) and n[len(prefix) :] in taken) and not n.startswith(unread)
    }
    normalization = _take_normalization(extra) or {k: v for k, v in weights.model_args.items() if k in ("mean", "std")}
    missing = [mine for mine in own if mine not in taken and not mine.endswith("num_batches_tracked")]
    shapes = [mine for mine, t in taken.items() if t.shape != own[mine].shape]
    old_classes = _other_classes(network, taken, shapes)
    if old_classes is not None and not missing and not extra:
        if not new_head:
            classes = output_layer(network)[1].out_features  # type: ignore[index]
            raise WeightsError(f"{weights.name} is for {old_classes} classes, the network {name} here for {classes}")
        taken = {mine: t for mine, t in taken.items() if mine not in shapes}
    elif missing or extra or shapes:
        differ = (f"{s} {tuple(taken[s].shape)} for {tuple(own[s].shape)}" for s in shapes)
        found = (("missing", missing), ("unknown", list(extra)), ("other shapes", list(differ)))
        wrong = "; ".join(f"{kind} {_few(names)}" for kind, names in found if names)
        belongs = weights.origin.get("model", name)
        remedy = f"it is of {belongs}" if belongs != name else "name the network it is of as model"
        raise WeightsError(f"{weights.name} does not fit the network {name} ({wrong}); {remedy}")
    network.load_state_dict(taken, strict=False)
    return Loaded(normalization, old_classes)


def _prefix(theirs: Iterable[str], own: Iterable[str]) -> str:
    """The prefix under which most of the network's names stand in the file."""
    theirs, own = set(theirs), list(own)
    prefixes = {""} | {name.removesuffix(mine) for name in theirs for mine in own if name.endswith(f".{mine}")}
    return max(sorted(prefixes, key=len), key=lambda prefix: sum(prefix + mine in theirs for mine in own))


def _take_normalization(extra: dict[str, Tensor]) -> dict[str, list[float]]:
    """Take mean and deviation per channel out of what is left over, such as ``0.mean`` and ``0.std``."""
    for mean, std in zip(MEANS, DEVIATIONS, strict=True):
        for name in list(extra):
            parent = name.removesuffix(mean)
            other = parent + std
            if name == parent or (parent and not parent.endswith(".")) or other not in extra:
                continue
            if extra[name].numel() == extra[other].numel():
                pair = extra.pop(name), extra.pop(other)
                return {key: t.flatten().tolist() for key, t in zip(("mean", "std"), pair, strict=True)}
    return {}


def _other_classes(network: nn.Module, taken: dict[str, Tensor], shapes: list[str]) -> int | None:
    """The file's class count, if that is all in which its weights differ from the network's."""
    found = output_layer(network)
    if not shapes or found is None:
        return None
    name, layer = found
    weight = taken.get(f"{name}.weight")
    if set(shapes) != {f"{name}.{part}" for part, _ in layer.named_parameters()} or weight is None:
        return None
    return len(weight) if weight.shape[1:] == layer.weight.shape[1:] else None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def agree(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
    """Whether two normalisations are the same up to rounding."""
    return one.keys() == other.keys() and all(torch.allclose(torch.tensor(one[k]), torch.tensor(other[k])) for k in one)


def in_words(normalization: dict[str, list[float]]) -> str:
    """A normalisation for messages."""
    parts = (f"{key} [{', '.join(f'{v:.4g}' for v in values)}]" for key, values in normalization.items())
    return f"normalisation ({', '.join(parts)})"
