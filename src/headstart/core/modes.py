"""Training and evaluation mode, layer by layer: what a user has frozen stays frozen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

log = logging.getLogger(__name__)


def modes_of(network: nn.Module) -> dict[nn.Module, bool]:
    """The mode of every layer, True for training."""
    return {layer: layer.training for layer in network.modules()}


def set_modes(modes: dict[nn.Module, bool]) -> None:
    """Put every layer back into the mode that ``modes_of`` found it in."""
    for layer, training in modes.items():
        layer.training = training


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, the whole network is in evaluation mode; afterwards every layer is in the mode that it was in."""
    modes = modes_of(network)
    network.eval()
    try:
        yield
    finally:
        set_modes(modes)


def prepare_for_training(network: nn.Module) -> None:
    """Put a network into training mode, without the layers that were frozen by calling their ``eval()``.

    A network that is in evaluation mode as a whole has most likely been left there: all of it is put into training
    mode, and a warning says so.
    """
    if not network.training:
        log.warning(
            "the network was given in evaluation mode; all of it trains now (to freeze some layers, put the network "
            "into training mode and those layers alone into evaluation mode)"
        )
    elif not all(layer.training for layer in network.modules()):
        return
    network.train()  # networks may freeze layers in a train() of their own
