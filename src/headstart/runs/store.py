"""What is written into the folder of a run, and read from it to go on."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from headstart.core import distributed
from headstart.errors import UserError
from headstart.recipes.reader import load_recipe, save_recipe
from headstart.recipes.recipe import Recipe
from headstart.runs.checkpoint import load_state, save_state
from headstart.runs.files import save_bytes, save_weights
from headstart.runs.folder import EVERY_EPOCH, RunFolder

# What may differ when a run is resumed: where it runs and how it is kept, not what is computed.
RESUMABLE_CHANGES = {
    "max_steps", "device", "devices", "num_nodes", "workers", "checkpoint_every", "keep", "on_collapse",
    "watch_every",
}  # fmt: skip


class RunStore(RunFolder):
    """config.yaml, metrics.jsonl, checkpoints/, the weights and cost.json of one run.

    Only the first process writes; on the others the same calls do nothing.
    """

    def resolved(self, recipe: Recipe) -> Recipe:
        """The recipe with what its network took over from the weights that the run in the folder started from."""
        if recipe.weights is None or not self.config.exists():
            return recipe
        return replace(recipe, model_args={**load_recipe(str(self.config)).model_args, **recipe.model_args})

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Refuse a folder that holds something else than this run; reads only.

        Raises:
            UserError: not a run, a run where ``resume`` is not set, or a run of another recipe.
        """
        out = self.path
        if not self.config.exists():
            if out.exists() and (not out.is_dir() or any(path != self.config_part for path in out.iterdir())):
                raise UserError(f"{out} exists and is not a run; choose another --out")
            return
        if not resume:
            raise UserError(f"run {out} exists; continue it with --resume or choose another --out")
        before, now = asdict(load_recipe(str(self.config))), asdict(recipe)
        for key, value in now.items():
            if key not in RESUMABLE_CHANGES and before[key] != value:
                raise UserError(f"{key} is {value!r} but run {out} was started with {before[key]!r}; use a new --out")

    def begin(self, recipe: Recipe) -> None:
        """Start a run."""
        if distributed.rank() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            self.metrics.unlink(missing_ok=True)  # of a run that ended before its first checkpoint
            save_recipe(recipe, self.config_part)
            os.replace(self.config_part, self.config)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl these rows; those written after the checkpoint are written anew."""
        if distributed.rank() == 0:
            self.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def add_row(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if distributed.rank() == 0:
            with self.metrics.open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    def save(self, state: dict[str, Any]) -> None:
        """Write checkpoints/last.pt; the one before becomes previous.pt."""
        if distributed.rank() == 0:
            save_state(self.last, state, self.previous)

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read; None before the first checkpoint.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        found = [path for path in (self.last, self.previous) if path.exists()]
        for path in found[:-1]:
            try:
                return load_state(path)
            except UserError as error:
                if distributed.rank() == 0:
                    print(f"headstart: {error}; going on from {self.previous}", file=sys.stderr)
        return load_state(found[-1]) if found else None

    def keep_epoch(self, state: dict[str, Any], epoch: int, keep: int) -> None:
        """Write the checkpoint of an epoch beside the last, and remove all but the newest ``keep``."""
        if distributed.rank() == 0:
            save_state(self.of_epoch(epoch), state)
            for old in sorted(self.checkpoints.glob(EVERY_EPOCH))[:-keep]:
                old.unlink()

    def save_best(self, network: nn.Module, metadata: dict[str, str]) -> None:
        """Write the weights that validation prefers so far."""
        if distributed.rank() == 0:
            save_weights(self.best, network.state_dict(), metadata)

    def finish(self, network: nn.Module, metadata: dict[str, str], cost: dict[str, Any]) -> None:
        """model.safetensors, the best by validation; model-last.safetensors, what training ended with; cost.json."""
        if distributed.rank() > 0:
            return
        save_weights(self.last_weights, network.state_dict(), metadata)
        if self.best.exists():
            save_bytes(self.weights, self.best.read_bytes())
        else:
            save_weights(self.weights, network.state_dict(), metadata)
        save_bytes(self.cost, (json.dumps(cost, indent=2) + "\n").encode())
