"""The page of a bench: every recipe's accuracies over all seeds, and what its training cost."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.report import plots
from headstart.report.by_time import AXES, at_budgets, drawn
from headstart.report.colours import colour
from headstart.report.numbers import Spread, budget, percent, spread
from headstart.report.reading import Json
from headstart.report.rendering import render

_COSTS = {"cpu_seconds": "processor time of the run, validation included, seconds", "seconds": "training, seconds"}
_COLUMNS = ("clean", "fgsm", "pgd-20", "robust", "seconds", "cpu_seconds")


@dataclass(frozen=True)
class Row:
    """A recipe: its short name, the spread of its figures over seeds, and in how many of them it collapsed."""

    name: str
    seeds: int
    spreads: dict[str, Spread]
    passes: dict[str, float]
    collapsed: int


def bench_page(summary: Json) -> str:
    """A page on the summary that `headstart.campaigns.bench` writes as ``table.json``.

    Recipes stand in its order, the most robust first. Their names lose the data set if all share one.
    """
    rows = _rows(summary["rows"])
    data_sets = {row["recipe"].rpartition("/")[0] for row in summary["rows"]}
    about = [*sorted(data_sets - {""}), f"ε = {budget(summary['epsilon'])}", f"test images: {summary['n']}"]
    suite = {"standard": "AutoAttack"}.get(summary["suite"], f"suite {summary['suite']}")
    measures = {"clean": "clean", "FGSM": "fgsm", "PGD-20": "pgd-20", suite: "robust"}
    return render(
        "bench.html.j2",
        title=f"headstart bench: {len(rows)} recipes",
        about=" · ".join(about),
        headline=f"{len(rows)} recipes, measured side by side",
        lede=_lede(rows, suite),
        settings={"Measurement": {key: summary[key] for key in ("suite", "n", "epsilon")}},
        measured=[summary],
        suite=suite,
        symbols=list(zip(plots.LADDER_SYMBOLS, measures, strict=True)),
        ladder=_ladder(rows, measures),
        cost=_cost(rows, suite, summary["cost"]),
        by_time=_by_time(summary.get("by_time", []), suite, summary["cost"]),
        rows=rows,
    )


def _by_time(curves: list[Json], suite: str, cost: str) -> Json | None:
    """Figure and table of the runs' checkpoints, if they were measured."""
    if not curves:
        return None
    return {"figure": drawn(curves, cost, suite), "table": at_budgets(curves, cost), "axis": AXES[cost]}


def _rows(rows: list[Json]) -> list[Row]:
    one_set = len({row["recipe"].rpartition("/")[0] for row in rows}) == 1
    return [
        Row(
            row["recipe"].rpartition("/")[2] if one_set else row["recipe"],
            len(row["seeds"]),
            {column: found for column in _COLUMNS if (found := spread(row[column]))},
            row["passes_per_update"],
            sum(map(bool, row["collapsed_epochs"])),
        )
        for row in rows
    ]


def _lede(rows: list[Row], suite: str) -> str:
    sentence = f"{rows[0].name} is the most robust: {percent(rows[0].spreads['robust'].mean, '%')} under {suite}."
    collapsed = sum(row.collapsed > 0 for row in rows)
    if not collapsed:
        return f"{sentence} None collapsed."
    return f"{sentence} The monitor saw {collapsed} of {len(rows)} recipes collapse in at least one seed."


def _ladder(rows: list[Row], measures: dict[str, str]) -> plots.Figure:
    lines = [
        (
            row.name,
            {title: row.spreads[column].mean for title, column in measures.items()},
            row.spreads["robust"].std or 0.0,
        )
        for row in rows
    ]
    return plots.ladder(lines, colour(2), name="ladder")


def _cost(rows: list[Row], suite: str, cost: str) -> plots.Figure:
    points = []
    for row in rows:
        robust = row.spreads["robust"]
        points.append(plots.Point(row.name, colour(2), row.spreads[cost].mean, robust.mean, robust.interval))
    return plots.frontier(points, _COSTS[cost], suite, name="cost")
