"""Reading the records of a run, and what several runs say together."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import UserError
from headstart.report.style import colour

Record = dict[str, Any]

# What tells two seeds of one recipe apart, and where a run is stored: none of it changes what is being compared.
_INDIVIDUAL = {"seed", "name", "out", "resume"}


@dataclass(frozen=True)
class Spread:
    """Mean of some runs, and their sample standard deviation (None for a single one)."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ in nothing but the seed, measured by one suite."""

    label: str
    colour: str
    runs: list[Record]

    @property
    def title(self) -> str:
        """The label, with the number of runs behind it."""
        return self.label if len(self.runs) == 1 else f"{self.label} ({len(self.runs)} runs)"

    def spread(self, part: str, key: str) -> Spread | None:
        """Spread of one number of the runs' records, as ``("evaluation", "robust")`` or ``("cost", "seconds")``."""
        return spread((run[part] or {}).get(key) for run in self.runs)

    def attack(self, name: str) -> Spread | None:
        """Spread of the accuracy under one attack."""
        return spread((run["evaluation"] or {}).get("attacks", {}).get(name) for run in self.runs)


def load_run(path: str | Path) -> Record:
    """Read ``config.yaml``, ``metrics.jsonl``, ``evaluation.json``, ``sweep.json`` and ``cost.json`` of a run folder.

    Only the configuration must be there: a run that was interrupted or not yet evaluated has less to show.

    Returns:
        ``{"name", "config", "metrics", "evaluation", "sweep", "cost"}``; evaluation and sweep are None and cost is
        empty where absent.

    Raises:
        UserError: there is no such directory, it holds no run, or one of its files cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no run directory {str(folder)!r}; name one that `headstart train` wrote")
    config = folder / "config.yaml"
    if not config.exists():
        raise UserError(f"{str(folder)!r} is not a run: it has no config.yaml")
    metrics, cost = folder / "metrics.jsonl", folder / "cost.json"
    evaluation, sweep = folder / "evaluation.json", folder / "sweep.json"
    return {
        "name": folder.resolve().name,
        "config": _mapping(config, _text(config)),
        "metrics": _rows(metrics) if metrics.exists() else [],
        "evaluation": _evaluation(evaluation) if evaluation.exists() else None,
        "sweep": _sweep(sweep) if sweep.exists() else None,
        "cost": _mapping(cost, _text(cost)) if cost.exists() else {},
    }


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are there; None when none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def sampling_interval(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy measured on ``n`` images (Wilson's, which is honest near 0 and 1 too)."""
    z = 1.96
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def group_runs(runs: list[Record]) -> list[Group]:
    """Put together the runs that may be averaged, in order of first appearance.

    A lone run goes by its own name; several go by their method, or by the first's name where another group of
    several has that method too.
    """
    members: dict[str, list[Record]] = {}
    for run in runs:
        members.setdefault(_identity(run), []).append(run)
    times = Counter(method_of(group[0]) for group in members.values() if len(group) > 1)

    def label(group: list[Record]) -> str:
        method = method_of(group[0])
        alone = len(group) == 1 or times[method] > 1
        return str(group[0]["name"]) if alone else method

    return [Group(label(group), colour(i), group) for i, group in enumerate(members.values())]


def method_of(run: Record) -> str:
    """Name of the method a run was trained with."""
    method = run["config"].get("method", "unknown")
    return str(method["name"] if isinstance(method, dict) and "name" in method else method)


def measured_by(run: Record) -> tuple[Any, Any, Any] | None:
    """Suite, number of images and epsilon: runs that differ here must not be averaged or ranked."""
    evaluation = run["evaluation"]
    return evaluation and tuple(evaluation.get(key) for key in ("suite", "n", "epsilon"))


def curve(run: Record) -> list[Record]:
    """Accuracies per epoch: validation where the run measured it, on the training batches if it never did.

    An epoch that was run again, after a resume or a step back to an earlier checkpoint, counts as it went last.
    """
    latest = {row["epoch"]: row for row in run["metrics"] if row.get("kind") == "epoch"}
    rows = [latest[epoch] for epoch in sorted(latest)]
    if any(row.get("val") for row in rows):
        return [{"epoch": row["epoch"], **(row.get("val") or {})} for row in rows]
    return [{"epoch": row["epoch"], "train": row.get("train_accuracy")} for row in rows]


def collapse_epoch(run: Record) -> int | None:
    """First epoch that the monitor marked as collapsed."""
    return next((row["epoch"] for row in run["metrics"] if row.get("collapsed") and "epoch" in row), None)


def passes_per_update(cost: Record) -> Record:
    """Forwards, input gradients and backwards of an average update; empty where they were not counted."""
    updates = cost.get("updates")
    if not updates:
        return {}
    return {key: cost[key] / updates for key in ("forwards", "input_gradients", "backwards") if key in cost}


def flat(values: Mapping[str, Any], prefix: str = "") -> Record:
    """Nested settings as one mapping, with names like ``outer.inner``."""
    result: Record = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        result.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return result


def split_settings(runs: list[Record]) -> tuple[Record, list[Record]]:
    """The settings on which all runs agree, and for each run the others (all have the same keys, None if unset)."""
    configs = [flat(run["config"]) for run in runs]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    shared = [key for key in keys if len({_canonical(config.get(key)) for config in configs}) == 1]
    own = [key for key in keys if key not in shared]
    return {key: configs[0][key] for key in shared}, [{key: config.get(key) for key in own} for config in configs]


def _identity(run: Record) -> str:
    config = {key: value for key, value in run["config"].items() if key not in _INDIVIDUAL}
    return _canonical([config, measured_by(run)])


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {_first_line(error)}") from error


def _mapping(path: Path, text: str, where: str = "") -> Record:
    """Parse YAML or JSON that must be a mapping."""
    try:
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise UserError(f"broken file {str(path)!r}{where}: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"broken file {str(path)!r}{where}: expected keys and values, found {type(value).__name__}")
    return value


def _evaluation(path: Path) -> Record:
    evaluation = _mapping(path, _text(path))
    for key in ("clean", "robust"):
        if not isinstance(evaluation.get(key), int | float):
            raise UserError(f"broken file {str(path)!r}: no number {key!r}; evaluate the run again")
    return evaluation


def _sweep(path: Path) -> Record:
    sweep = _mapping(path, _text(path))
    sizes, accuracies = (sweep.get(key) for key in ("epsilons", "accuracies"))
    if not isinstance(sizes, list) or not isinstance(accuracies, list) or len(sizes) != len(accuracies):
        raise UserError(f"broken file {str(path)!r}: no accuracy for each epsilon; sweep the run again")
    return sweep


def _rows(path: Path) -> list[Record]:
    lines = enumerate(_text(path).split("\n"), start=1)
    rows = [_mapping(path, line, where=f", line {number}") for number, line in lines if line.strip()]
    for row in rows:
        if row.get("kind") == "epoch" and not isinstance(row.get("epoch"), int):
            raise UserError(f"broken file {str(path)!r}: a row of kind 'epoch' has no epoch number")
    return rows


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
