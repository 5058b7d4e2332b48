"""Robustness against what training had cost by then: a figure and a table over the checkpoints of some runs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.report.drawing import legend, new
from headstart.report.numbers import number, percent
from headstart.report.plots import NARROW, WIDE, Plot
from headstart.report.reading import Json
from headstart.report.tables import Cell, Column, Row, Table, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"cpu_seconds": "processor seconds of training", "seconds": "seconds of training"}
HALVINGS = 5  # budgets of the table: all of the longest run, and half as much, so many times


@dataclass(frozen=True)
class AtBudgets:
    """What each recipe has reached at some budgets.

    Attributes:
        budgets: seconds, ascending.
        rows: by recipe, for each budget the robust accuracy of the newest checkpoint within it, mean over the seeds;
            None where a seed has none yet.
    """

    budgets: list[float]
    rows: dict[str, list[float | None]]


def at_budgets(curves: list[Json], cost: str) -> AtBudgets:
    """The table of some curves, the recipes in their order.

    Args:
        curves: of each run ``{"recipe", "seed", "points"}``; a point has ``robust`` and the costs by name.
        cost: the name that is compared, a key of ``AXES``.
    """
    longest = max(point[cost] for curve in curves for point in curve["points"])
    budgets = [longest / 2**k for k in reversed(range(HALVINGS + 1))]
    seeds: dict[str, list[list[float | None]]] = {}
    for curve in curves:
        seeds.setdefault(curve["recipe"], []).append([_within(curve["points"], cost, budget) for budget in budgets])
    return AtBudgets(budgets, {name: [_mean(at) for at in zip(*rows, strict=True)] for name, rows in seeds.items()})


def tabled(curves: list[Json], cost: str) -> Table:
    """The same as a table of a page, accuracies in percent."""
    found = at_budgets(curves, cost)
    columns = [Column("recipe", text=True), *(Column(number(budget), AXES[cost]) for budget in found.budgets)]
    rows = [Row([words(name), *map(_cell, row)]) for name, row in found.rows.items()]
    return Table("by-time", "Robustness by cost", columns, rows)


def _cell(value: float | None) -> Cell:
    return Cell(percent(value), None if value is None else 100 * value)


def drawn(curves: list[Json], cost: str, suite: str) -> Plot:
    """The figure: a colour per recipe, a line per seed, a dot per checkpoint."""
    wide, narrow = (_drawn(curves, cost, suite, size) for size in ((WIDE, 3.6), (NARROW, 3.4)))
    return Plot("by-time", f"{suite} accuracy against {AXES[cost]}", wide, narrow)


def _drawn(curves: list[Json], cost: str, suite: str, size: tuple[float, float]) -> Figure:
    figure, axes = new(*size)
    names = list(dict.fromkeys(curve["recipe"] for curve in curves))
    for curve in curves:
        xs, ys = ([scale * point[key] for point in curve["points"]] for key, scale in ((cost, 1), ("robust", 100)))
        first = curve is next(c for c in curves if c["recipe"] == curve["recipe"])
        label = curve["recipe"] if first else None
        axes.plot(xs, ys, f"C{names.index(curve['recipe'])}o-", markersize=3, linewidth=1.2, label=label)
    axes.set(xlabel=AXES[cost], ylabel=f"{suite} accuracy, %", xlim=(0, None), ylim=(0, None))
    legend(axes, "lower right")
    return figure


def _within(points: list[Json], cost: str, budget: float) -> float | None:
    done = [point for point in points if point[cost] <= budget]
    return float(max(done, key=lambda point: point[cost])["robust"]) if done else None


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None
