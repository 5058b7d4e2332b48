"""Robustness against what training had cost by then: a figure and a table over the checkpoints of some runs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from headstart.report.drawing import new, svg
from headstart.report.reading import Json

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


def drawn(curves: list[Json], cost: str, suite: str) -> str:
    """The figure as an ``<svg>`` element: a colour per recipe, a line per seed, a dot per checkpoint."""
    figure, axes = new(7.2, 3.4)
    names = list(dict.fromkeys(curve["recipe"] for curve in curves))
    for curve in curves:
        xs, ys = ([scale * point[key] for point in curve["points"]] for key, scale in ((cost, 1), ("robust", 100)))
        first = curve is next(c for c in curves if c["recipe"] == curve["recipe"])
        label = curve["recipe"] if first else None
        axes.plot(xs, ys, f"C{names.index(curve['recipe'])}o-", markersize=3, linewidth=1.2, label=label)
    axes.set(xlabel=AXES[cost], ylabel=f"{suite} accuracy, %", xlim=(0, None), ylim=(0, None))
    axes.legend()
    return svg(figure)


def _within(points: list[Json], cost: str, budget: float) -> float | None:
    done = [point for point in points if point[cost] <= budget]
    return float(max(done, key=lambda point: point[cost])["robust"]) if done else None


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None
