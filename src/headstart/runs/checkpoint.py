"""The training state on disk, and the random state in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.errors import WeightsError
from headstart.runs.files import atomically

FORMAT = 2


def save_state(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Write a training state; on return it is on the disk, and at no moment is ``path`` incomplete.

    Args:
        previous: where the state that was at ``path`` goes; it is gone by default.

    Raises:
        StorageError: the disk is full or not writable; what was at ``path`` is still there.
    """
    atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary), previous)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state. Only tensors and plain values are accepted, never code.

    Raises:
        WeightsError: missing, truncated, not a training state, or a pickle that holds code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"checkpoint {path} does not exist") from error
    except Exception as error:  # torch.load raises a different type for every way in which a file can be broken
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(f"checkpoint {path} cannot be read: truncated, or a pickle with code ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise WeightsError(f"checkpoint {path} is not a training state of this version of headstart")
    return state


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the global generators of all processes, (processes, n) bytes each."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {kind: distributed.gather(state[None].to(device)).cpu() for kind, state in states.items()}


def set_random_state(states: dict[str, Tensor], device: torch.device) -> bool:
    """Restore what ``random_state`` returned; False if that was on other processes or another kind of device."""
    if set(states) != ({"cpu", "cuda"} if device.type == "cuda" else {"cpu"}):
        return False
    if len(states["cpu"]) != distributed.world_size():
        return False
    torch.set_rng_state(states["cpu"][distributed.rank()].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][distributed.rank()].clone(), device)
    return True
