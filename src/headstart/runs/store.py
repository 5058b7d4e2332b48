"""What is written into the folder of a run, and read from it to go on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from headstart.core import distributed
from headstart.errors import SettingError, StorageError, WeightsError
from headstart.recipes.reader import load_recipe, save_recipe
from headstart.recipes.recipe import RESUMABLE, Recipe
from headstart.runs.checkpoint import load_state, save_state
from headstart.runs.files import check_folder, save_bytes, save_weights
from headstart.runs.folder import EVERY_EPOCH, SERVICES, RunFolder

log = logging.getLogger(__name__)


class RunStore(RunFolder):
    """config.yaml, metrics.jsonl, checkpoints/, the weights and cost.json of one run.

    Only the first process writes; on the others the same calls do nothing.
    """

    def resolved(self, recipe: Recipe) -> Recipe:
        """The recipe with what its network took over from the weights that the run in the folder started from."""
        if recipe.weights is None or not self.config.exists():
            return recipe
        return replace(recipe, model_args={**load_recipe(str(self.config)).model_args, **recipe.model_args})

    def check(self, recipe: Recipe, resume: bool, *, longer: bool = False) -> None:
        """Refuse a folder that cannot be written to, or holds something else than this run; reads only.

        Args:
            longer: the run may have had another number of epochs.

        Raises:
            StorageError: a file is in the way, not a run, or a run where ``resume`` is not set.
            SettingError: a run of another recipe.
        """
        out = self.path
        if not os.path.isfile(out):
            check_folder(out)
        if not self.config.exists():
            remains = (self.config_part, self.broken_batch)  # of a start that failed
            if out.exists() and (not out.is_dir() or any(path not in remains for path in out.iterdir())):
                raise StorageError(f"{out} exists and is not a run; choose another out")
            return
        if not resume:
            raise StorageError(f"run {out} exists; continue it with resume, or choose another out")
        before, now = asdict(load_recipe(str(self.config))), asdict(recipe)
        for key, value in now.items():
            if key not in RESUMABLE and before[key] != value and not (longer and key == "epochs"):
                raise SettingError(
                    f"{key} is {value!r} but run {out} was started with {before[key]!r}; choose another out"
                )

    def begin(self, recipe: Recipe) -> None:
        """Start a run."""
        if distributed.rank() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            for old in (self.metrics, self.broken_batch):  # of a run that ended before its first checkpoint
                old.unlink(missing_ok=True)
            self.describe(recipe)

    def describe(self, recipe: Recipe) -> None:
        """Write config.yaml: the recipe, with what a resumed run changed in it."""
        if distributed.rank() == 0:
            save_recipe(recipe, self.config_part)
            os.replace(self.config_part, self.config)

    def discard(self) -> None:
        """Leave nothing of a run that failed before its first checkpoint but the batch that broke it.

        The next try then finds the folder free, whatever is changed in it.
        """
        if distributed.rank() > 0 or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir())):
            return
        for file in (self.metrics, self.config, self.config_part, *map(self.tracked, SERVICES)):
            file.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.csv, self.path / "wandb", self.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the broken batch is there, or something that is not ours
            self.path.rmdir()

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
            WeightsError: there are checkpoints, and none can be read.
        """
        found = [path for path in (self.last, self.previous) if path.exists()]
        for path in found[:-1]:
            try:
                return load_state(path)
            except WeightsError as error:
                log.warning("%s; going on from %s", error, self.previous)
        return load_state(found[-1]) if found else None

    def complete(self, recipe: Recipe) -> bool:
        """Whether the run has all updates that the recipe asks for, and the files that training ends with."""
        state = self.load() if self.cost.exists() and self.weights.exists() else None
        if state is None or json.loads(self.cost.read_text())["updates"] != state["clock"]["update"]:
            return False
        clock = state["clock"]
        wanted = min(clock["updates"], recipe.max_steps or clock["updates"])
        return bool(clock["epochs"] == recipe.epochs and clock["update"] >= wanted)

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
