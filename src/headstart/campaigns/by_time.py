"""Robustness by cost: the checkpoints that the runs of a bench kept, attacked one by one."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

from headstart.errors import StorageError
from headstart.evaluation.evaluate import evaluate
from headstart.recipes.recipe import Recipe
from headstart.report.by_time import at_budgets
from headstart.runs.checkpoint import load_state
from headstart.runs.files import save_weights, write_text
from headstart.runs.folder import EVERY_EPOCH, RunFolder

LOG = logging.getLogger(__name__)
ALL = 1_000_000  # epoch checkpoints to keep: every one


def curve(recipe: Recipe, run: RunFolder, record: Path, suite: str, n: int | None) -> list[dict[str, Any]]:
    """Of every epoch checkpoint that the run kept: its cost so far, and its accuracies on the test images.

    The cost is that of updates alone, in seconds of the clock and of the processor. Attacked are the weights that the
    run would have ended with: their average where there is one.

    Args:
        record: JSON file of the points. Those that are in it are kept, so that a measurement that was cut off goes on.

    Raises:
        StorageError: the run kept no checkpoints of its epochs or such of an older version, or the record was made
            with other settings.
    """
    found = sorted(run.checkpoints.glob(EVERY_EPOCH))
    if not found:
        raise StorageError(f"{run.path} kept no checkpoints of its epochs; train it again with keep {recipe.epochs}")
    settings = {"suite": suite, "n": n}
    made: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {**settings, "points": []}
    if any(made[key] != value for key, value in settings.items()):
        raise StorageError(f"{record} was made with other settings than {settings}; take another folder or delete it")
    known = {point["epoch"] for point in made["points"]}
    for path in found:
        state = load_state(path)
        if state["clock"]["epoch"] not in known:
            LOG.info("%s: epoch %d", run.path.name, state["clock"]["epoch"])
            if "processor" not in state:
                raise StorageError(f"{path} is of a version that did not count processor seconds; train it again")
            made["points"].append(_point(recipe, run, state, suite, n))
            write_text(record, json.dumps(made, indent=1) + "\n")
    return sorted(made["points"], key=lambda point: int(point["epoch"]))


def markdown(curves: list[dict[str, Any]], cost: str) -> str:
    """The table of ``report.by_time.at_budgets``, accuracies in percent."""
    table = at_budgets(curves, cost)
    kind = "processor" if cost == "cpu_seconds" else "training"
    lines = [
        f"| {kind} seconds | {' | '.join(f'{budget:.3g}' for budget in table.budgets)} |",
        "|---" * (len(table.budgets) + 1) + "|",
    ]
    for name, row in table.rows.items():
        lines.append(f"| {name} | {' | '.join('-' if v is None else f'{100 * v:.1f}' for v in row)} |")
    return "\n".join(lines) + "\n"


def _point(recipe: Recipe, run: RunFolder, state: dict[str, Any], suite: str, n: int | None) -> dict[str, Any]:
    prefix = "module."
    average = {k.removeprefix(prefix): v for k, v in state["average"].items() if k.startswith(prefix)}
    with safe_open(run.last_weights, framework="pt") as stored:
        origin = stored.metadata()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_weights(weights, average or state["network"], origin)
        measured = evaluate(weights, suite=suite, n=n, device=recipe.device, seed=recipe.seed)
    return {
        "epoch": state["clock"]["epoch"],
        "update": state["clock"]["update"],
        "seconds": state["seconds"]["training"],
        "cpu_seconds": state["processor"]["training"],
        "clean": measured.clean,
        "robust": measured.robust,
    }
