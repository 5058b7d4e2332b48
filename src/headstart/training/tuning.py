"""What of a network is trained, and how fast: frozen layers, frozen batch-norm, and a rate that falls with depth."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.core.layers import depths
from headstart.errors import SettingError
from headstart.recipes.recipe import Recipe

Group = dict[str, Any]


def freeze(network: nn.Module, recipe: Recipe) -> None:
    """Freeze what the recipe names, and all batch-norm where it says so.

    Frozen layers get no gradient and stand in evaluation mode: their batch-norm neither uses nor moves statistics of a
    batch, and they drop nothing.

    Raises:
        SettingError: a name that the network has not, no batch-norm, or nothing left to train.
    """
    layers, parameters = dict(network.named_modules()), dict(network.named_parameters())
    for name in recipe.freeze:
        named = [p for key, p in parameters.items() if key == name or key.startswith(f"{name}.")]
        if not named:
            raise _no_such(name, network, recipe)
        _fix(named, [layers[name]] if name in layers else [])
    if recipe.freeze_batch_norm:
        norms = [layer for layer in layers.values() if isinstance(layer, _BatchNorm)]
        if not norms:
            raise SettingError(f"freeze_batch_norm: the network {recipe.model} has no batch-norm; leave it out")
        _fix([p for layer in norms for p in layer.parameters()], norms)
    if (recipe.freeze or recipe.freeze_batch_norm) and not any(p.requires_grad for p in parameters.values()):
        raise SettingError(f"freeze leaves nothing of the network {recipe.model} to train; name fewer layers")


def _fix(parameters: Sequence[nn.Parameter], layers: Sequence[nn.Module]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)
    for layer in layers:
        layer.eval()


def _no_such(name: str, network: nn.Module, recipe: Recipe) -> SettingError:
    parameters = [key for key, _ in network.named_parameters()]
    known = {".".join(key.split(".")[:n]) for key in parameters for n in range(1, key.count(".") + 2)}
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    outer = ", ".join(dict.fromkeys(key.split(".")[0] for key in parameters))
    return SettingError(f"freeze: the network {recipe.model} has no weights named {name!r}{hint} (it has {outer})")


def trained_parameters(network: nn.Module, recipe: Recipe) -> list[nn.Parameter] | list[Group]:
    """What the optimiser moves: all that is not frozen, with ``layer_decay`` in a group for every depth.

    A group's rate is that of the recipe times ``layer_decay`` for every step between it and the output layer, as in
    BEiT (Bao et al., ICLR 2022) and timm. The group with the highest rate is first.

    Raises:
        SettingError: all layers have one depth.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if recipe.layer_decay == 1:
        return list(trained.values())
    depth = depths(network)
    top = max(depth.values())
    if top == 0:
        raise SettingError(
            f"layer_decay is {recipe.layer_decay}, but the network {recipe.model} has no blocks one after the other; "
            "leave it at 1"
        )
    return [
        {"params": group, "lr": recipe.lr * recipe.layer_decay ** (top - step)}
        for step in range(top, -1, -1)
        if (group := [p for name, p in trained.items() if depth[name] == step])
    ]
