"""What the files of one run say, and what several runs say together."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headstart.report.colours import colour
from headstart.report.numbers import Spread, budget, spread
from headstart.report.reading import Json

PASSES = {"forwards": "forward", "input_gradients": "input grad.", "backwards": "backward"}


@dataclass(frozen=True)
class Measure:
    """How a robust accuracy was measured: figures that differ here must be neither averaged, ranked nor drawn together.

    Attributes:
        data: name of the data set, None in records that do not say it.
    """

    suite: str | None
    n: int | None
    epsilon: float | None
    norm: str
    data: str | None

    def __str__(self) -> str:
        of = f" of {re.split(r'[:/]', self.data.rstrip('/'))[-1]}" if self.data else ""
        norm = "" if self.norm == "linf" else f" in {self.norm}"
        return f"{self.suite}, ε = {budget(self.epsilon)}{norm}, {self.n} images{of}"


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ in nothing but the seed, measured by one suite."""

    label: str
    colour: str
    runs: list[Json]

    @property
    def title(self) -> str:
        """The label, with the number of runs behind it."""
        return self.label if len(self.runs) == 1 else f"{self.label} ({len(self.runs)} runs)"

    @property
    def measured(self) -> str:
        """How its runs were measured, in words."""
        how = measured_by(self.runs[0])
        return "not evaluated" if how is None else str(how)

    def cost(self, key: str) -> Spread | None:
        """Spread of one number of the runs' costs."""
        return spread(run["cost"].get(key) for run in self.runs)

    def accuracy(self, key: str) -> Spread | None:
        """Spread of the accuracy ``clean`` or ``robust``."""
        return self._accuracy((run["evaluation"] or {}).get(key) for run in self.runs)

    def attack(self, name: str) -> Spread | None:
        """Spread of the accuracy under one attack."""
        return self._accuracy(attacks(run).get(name) for run in self.runs)

    def _accuracy(self, values: Iterable[float | None]) -> Spread | None:
        how = measured_by(self.runs[0])
        return spread(values, how.n if how else None)


def group_runs(runs: list[Json]) -> list[Group]:
    """Put together the runs that may be averaged, in order of first appearance.

    A lone run goes by its own name; several go by their method, or by the first's name where another group of
    several has that method too.
    """
    members: dict[str, list[Json]] = {}
    for run in runs:
        members.setdefault(_identity(run), []).append(run)
    times = Counter(method_of(group[0]) for group in members.values() if len(group) > 1)

    def label(group: list[Json]) -> str:
        method = method_of(group[0])
        alone = len(group) == 1 or times[method] > 1
        return str(group[0]["name"]) if alone else method

    return [Group(label(group), colour(i), group) for i, group in enumerate(members.values())]


def comparable(groups: list[Group]) -> bool:
    """Whether every group that was evaluated was evaluated in the same way."""
    return len({measured_by(group.runs[0]) for group in groups} - {None}) <= 1


def method_of(run: Json) -> str:
    """Name of the method a run was trained with."""
    return str(run["config"].get("method", "unknown"))


def measured_by(run: Json) -> Measure | None:
    """How the run was evaluated, None where it was not."""
    evaluation = run["evaluation"]
    if not evaluation:
        return None
    norm, data = evaluation.get("norm", "linf"), (evaluation.get("request") or {}).get("data")
    suite, n, epsilon = (evaluation.get(key) for key in ("suite", "n", "epsilon"))
    return Measure(suite, n, epsilon, norm, data or run["config"].get("data"))


def attacks(run: Json) -> dict[str, float]:
    """Accuracy under each attack of the run's evaluation; empty where there is none."""
    found: dict[str, float] = (run["evaluation"] or {}).get("attacks", {})
    return found


def curve(run: Json) -> list[Json]:
    """Accuracies per epoch, and inside epochs where the run measured there: of validation, else of training batches.

    An epoch that was run again, after a resume or a step back to an earlier checkpoint, counts as it went last.
    """
    latest = {row["epoch"]: row for row in run["metrics"]}
    rows = [latest[epoch] for epoch in sorted(latest)]
    if any(row.get("val") for row in rows):
        ends = [{"epoch": row["epoch"], **(row.get("val") or {})} for row in rows]
        return [point for row, end in zip(rows, ends, strict=True) for point in (*row.get("inside", ()), end)]
    return [{"epoch": row["epoch"], "train": row.get("train_accuracy")} for row in rows]


def watched(run: Json) -> bool:
    """Whether the run was validated, which is what chooses its weights and sees a collapse."""
    return any("pgd" in row for row in curve(run))


def collapse_epoch(run: Json) -> int | None:
    """First epoch that the monitor marked as collapsed."""
    return next((row["epoch"] for row in run["metrics"] if row.get("collapsed")), None)


def passes_per_update(cost: Json) -> dict[str, float]:
    """Forwards, input gradients and backwards of an average update; empty where nothing was trained."""
    updates = cost.get("updates")
    return {key: cost[key] / updates for key in PASSES} if updates else {}


def split_settings(runs: list[Json]) -> tuple[Json, list[Json]]:
    """The settings on which all runs agree, and for each run the others (all have the same keys, None if unset)."""
    configs = [flat(run["config"]) for run in runs]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    shared = [key for key in keys if len({_canonical(config.get(key)) for config in configs}) == 1]
    own = [key for key in keys if key not in shared]
    return {key: configs[0][key] for key in shared}, [{key: config.get(key) for key in own} for config in configs]


def flat(values: Mapping[str, Any], prefix: str = "") -> Json:
    """Nested settings as one mapping, with names like ``outer.inner``."""
    result: Json = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        result.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return result


def _identity(run: Json) -> str:
    config = {key: value for key, value in run["config"].items() if key != "seed"}
    return _canonical([config, str(measured_by(run))])


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
