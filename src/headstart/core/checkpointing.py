"""Activation checkpointing: the blocks of a network keep their inputs alone, and run again in the backward pass."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headstart.core.layers import blocks
from headstart.errors import WeightsError

FLAGS = ("training", "track_running_stats")  # by which a layer computes something else


def checkpoint_activations(network: nn.Module) -> None:
    """Let every block of a network forget what it computes inside until its backward needs it (Chen et al., 2016).

    A block's second run repeats its first: in the same modes, from the same buffers and random numbers, and without
    moving running statistics again. State dict, copies and pickles of the network stay as they are.

    Raises:
        WeightsError: the network has no blocks.
    """
    found = [block for block in blocks(network).values() if next(block.children(), None) is not None]
    if not found:
        raise WeightsError(
            "checkpoint_activations: the network has no blocks, layers of layers in a Sequential or ModuleList"
        )
    for block in found:
        block.forward = functools.partial(_forward, block)


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = functools.partial(_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


Flags = dict[nn.Module, dict[str, bool]]
Buffers = dict[tuple[nn.Module, str], Tensor]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first run of a block, and around those that repeat it."""
    return nullcontext(), Repeating(block)


class Repeating:
    """Inside, a block stands as it did when this was made; afterwards, as it did before.

    It may be entered again: a graph that is kept is walked more than once.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        buffers = {key: buffer.clone() for key, buffer in _buffers(block).items()}
        self.first = self.now = (_flags(block), _trained(block), buffers)

    def __enter__(self) -> None:
        self.now = (_flags(self.block), _trained(self.block), _buffers(self.block))
        _set(*self.first)

    def __exit__(self, *_: object) -> None:
        _set(*self.now)


def _flags(block: nn.Module) -> Flags:
    return {layer: {key: vars(layer)[key] for key in FLAGS if key in vars(layer)} for layer in block.modules()}


def _trained(block: nn.Module) -> dict[nn.Parameter, bool]:
    return {p: p.requires_grad for p in block.parameters()}


def _buffers(block: nn.Module) -> Buffers:
    return {(m, name): buffer for m in block.modules() for name, buffer in m._buffers.items() if buffer is not None}


def _set(flags: Flags, trained: dict[nn.Parameter, bool], buffers: Buffers) -> None:
    for layer, values in flags.items():
        vars(layer).update(values)
    for parameter, requires_grad in trained.items():
        parameter.requires_grad_(requires_grad)
    for (layer, name), buffer in buffers.items():
        layer._buffers[name] = buffer
