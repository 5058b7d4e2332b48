"""Normalisation inside the network, so that images stay in [0, 1] everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

HOOKED = "headstart_normalize"  # the first layer of a network that has no place for one


class Normalize(nn.Module):
    """(x - mean) / std per channel.

    Not in the state dict: published weights and plain modules have no such entries.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)


def normalization(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int | None = None) -> nn.Module:
    """The first layer: identity unless a mean and a deviation are given.

    Raises:
        ValueError: one without the other, neither one value nor one per channel, or a deviation of 0.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None:
        raise ValueError("mean and std belong together; give both or none")
    if len(mean) != len(std) or (channels is not None and len(mean) not in (1, channels)):
        raise ValueError(f"mean has {len(mean)} values and std {len(std)}; both need one per channel of the image")
    if not all(value > 0 for value in std):
        raise ValueError(f"std is {list(std)}; every value must be above 0")
    return Normalize(mean, std)


def normalized(network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The same network, changed to take images in [0, 1]: it subtracts ``mean`` and divides by ``std`` first.

    The names in its state dict stay as they are, so that its weights still load into the plain module.

    Raises:
        ValueError: see ``normalization``.
    """
    first = normalization(mean, std)
    if isinstance(getattr(network, "normalize", None), Normalize | nn.Identity):  # one of ours
        network.normalize = first
        return network
    if not hasattr(network, HOOKED):
        network.register_forward_pre_hook(_normalize_first)
    network.add_module(HOOKED, first)
    return network


def _normalize_first(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (network.get_submodule(HOOKED)(inputs[0]), *inputs[1:])


def normalization_of(network: nn.Module) -> dict[str, list[float]]:
    """``mean`` and ``std`` by which the network normalises, as in ``model_args``; empty where it does not."""
    for name in ("normalize", HOOKED):
        first = getattr(network, name, None)
        if isinstance(first, Normalize):
            return {key: cast(Tensor, getattr(first, key)).flatten().tolist() for key in ("mean", "std")}
    return {}
