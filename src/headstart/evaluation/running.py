"""An attack that was cut off goes on with the batch it was at, and Square with the query."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from headstart.attacks.square import State
from headstart.core import distributed
from headstart.evaluation.outcome import Round
from headstart.runs.files import save_weights


class Running:
    """The batches of an attack that this process has finished, and the state of the one it is at, on disk.

    Args:
        partial: file of the evaluation's finished attacks, beside which each process keeps its own; None keeps nothing.
        mark: of the evaluation, the attack and its batches. Another number of processes shares them otherwise and
            begins anew.
    """

    def __init__(self, partial: Path | None, mark: str) -> None:
        rank, size = distributed.rank(), distributed.world_size()
        self.path = None if partial is None else partial.with_suffix(f".{rank}{partial.suffix}")
        self.mark = f"{mark} {rank}/{size}"
        self.done: list[int] = []
        self.at: tuple[int, State] | None = None

    def restore(self, found: Round) -> None:
        """Bring the results to where the same attack was cut off."""
        if self.path is None or not self.path.exists():
            return
        try:
            with safe_open(self.path, framework="pt") as stored:
                kept = json.loads((stored.metadata() or {}).get("running", "{}"))
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except SafetensorError:
            return
        if kept.get("mark") != self.mark:
            return
        self.done = kept["done"]
        found.broken, found.margin, found.predicted = (tensors[key] for key in ("broken", "margin", "predicted"))
        found.examples = tensors.get("examples")
        if kept["at"] is not None:
            device = torch.device(kept["device"])
            state = {key: tensors[f"state.{key}"].to(device) for key in ("found", "rows", "best", "lead")}
            self.at = kept["at"], State(kept["query"], **state)

    def state_of(self, batch: int) -> State | None:
        """Where this batch was cut off."""
        return self.at[1] if self.at is not None and self.at[0] == batch else None

    def finish(self, batch: int, found: Round) -> None:
        """Keep the results, those of this batch among them."""
        self.done.append(batch)
        self._save(found, None, None)

    def keep(self, batch: int, found: Round, state: State) -> None:
        """Keep the state of this batch, and the results of those before."""
        self._save(found, batch, state)

    def _save(self, found: Round, at: int | None, state: State | None) -> None:
        if self.path is None:
            return
        tensors = {"broken": found.broken, "margin": found.margin, "predicted": found.predicted}
        if found.examples is not None:
            tensors["examples"] = found.examples
        kept = {"mark": self.mark, "done": self.done, "at": at}
        if state is not None:
            parts = asdict(state)
            kept |= {"query": parts.pop("query"), "device": str(state.best.device)}
            tensors |= {f"state.{key}": value for key, value in parts.items()}
        save_weights(self.path, tensors, {"running": json.dumps(kept)})

    def remove(self) -> None:
        """Once the attack is among the finished ones."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
