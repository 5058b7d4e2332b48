"""Robustness by cost: what a recipe has reached at a budget, and its picture."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report.by_time import at_budgets, drawn
from headstart.report.drawing import svg


def curve(recipe: str, seed: int, *points: tuple[float, float]) -> dict[str, Any]:
    made = [{"epoch": i, "cpu_seconds": s, "seconds": s / 2, "robust": r} for i, (s, r) in enumerate(points, 1)]
    return {"recipe": recipe, "seed": seed, "points": made}


CURVES = [
    curve("long", 0, (20.0, 0.1), (40.0, 0.2), (80.0, 0.4)),
    curve("long", 1, (15.0, 0.2), (45.0, 0.3), (80.0, 0.5)),
    curve("short", 0, (5.0, 0.3), (10.0, 0.25)),
]


def test_the_newest_checkpoint_within_the_budget_counts() -> None:
    table = at_budgets(CURVES, "cpu_seconds")
    assert table.budgets == [2.5, 5.0, 10.0, 20.0, 40.0, 80.0]
    assert list(table.rows) == ["long", "short"]
    assert table.rows["long"] == [None, None, None, pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.45)]
    assert table.rows["short"] == [None, 0.3, 0.25, 0.25, 0.25, 0.25]


def test_the_cost_is_the_one_that_is_asked_for() -> None:
    assert at_budgets(CURVES, "seconds").budgets[-1] == 40.0


def test_the_picture_names_every_recipe_once() -> None:
    plot = drawn(CURVES, "cpu_seconds", "AutoAttack")
    assert plot.narrow is not None
    for figure in (plot.wide, plot.narrow):
        made = svg(figure)
        for text in ("long", "short", "processor seconds of training", "AutoAttack accuracy, %"):
            assert made.count(f">{text}<") == 1
