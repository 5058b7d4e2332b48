"""The state of a run: named parts, each of which can be saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headstart.errors import WeightsError

NOT_IN_OLDER = ("processor", "inside")  # parts that older checkpoints lack; they begin anew


class Stateful(Protocol):
    """Network, optimiser, method, average and whatever else a run consists of."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


@dataclass(frozen=True)
class Attribute:
    """An attribute with a plain value, as a part."""

    owner: object
    name: str

    def state_dict(self) -> Any:
        return getattr(self.owner, self.name)

    def load_state_dict(self, state: Any) -> None:
        setattr(self.owner, self.name, state)


def state_of(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """The states of all parts; their tensors are the live ones."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Stateful], state: Mapping[str, Any], source: Path) -> None:
    """Give every part the state of its name.

    Args:
        source: where the state is from, for messages.

    Raises:
        WeightsError: the state belongs to another network or method.
    """
    for name, part in parts.items():
        if name not in state and name in NOT_IN_OLDER:
            continue
        try:
            part.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{source} belongs to another network or method: {reason}") from error
