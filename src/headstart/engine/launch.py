"""Processes and devices of a run, and how it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from headstart.config import Recipe
from headstart.errors import UserError


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the state is saved."""


def make_fabric(recipe: Recipe, out: Path) -> Fabric:
    """Devices and processes. Fabric's own precision stays 32-true: Target opens the autocast, see there."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda is not available on this machine; use --device cpu")
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(recipe.device, recipe.device)
    processes = recipe.devices * recipe.num_nodes
    fabric = Fabric(
        accelerator=accelerator,
        devices=recipe.devices,
        num_nodes=recipe.num_nodes,
        strategy="ddp" if processes > 1 else "auto",
        loggers=TensorBoardLogger(out, name="", version="tensorboard"),
    )
    fabric.launch()
    return fabric


class StopSignal:
    """Whether SIGINT or SIGTERM asked the run to stop; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the two signals only leave word here."""

        def stop(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        try:
            previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller handles signals
            yield
            return
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
