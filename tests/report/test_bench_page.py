"""The page of a bench: every figure of its summary, in order, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headstart.report import bench_page

COLUMNS = ("clean", "fgsm", "pgd-20", "robust")


def row(recipe: str, robust: list[float], cpu_seconds: float, collapsed: tuple[int, ...] = ()) -> dict[str, Any]:
    """Seeds that differ in their robust accuracy alone."""
    seeds = len(robust)
    return {
        "recipe": recipe,
        "recipe_fields": {},
        "seeds": list(range(seeds)),
        **{column: [0.9 - i / 10] * seeds for i, column in enumerate(COLUMNS)},
        "robust": robust,
        "cpu_seconds": [cpu_seconds] * seeds,
        "seconds": [cpu_seconds / 2] * seeds,
        "collapsed_epochs": [[3] if seed in collapsed else [] for seed in range(seeds)],
        "passes_per_update": {"forwards": 2.0, "input_gradients": 1.0, "backwards": 1.0},
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "suite": "standard",
        "n": 500,
        "epsilon": 8 / 255,
        "environment": {"device": "a processor"},
        "cost": "cpu_seconds",
        "rows": [
            row("digits/pgd-at", [0.3, 0.34], 50.0),
            row("digits/free", [0.2, 0.2], 5.0),
            row("digits/<slow>", [0.1, 0.1], 60.0, collapsed=(1,)),
            row("digits/fgsm", [0.0, 0.02], 10.0, collapsed=(0, 1)),
        ],
    }


def test_the_table_has_every_figure(summary: dict[str, Any], parsed: Any) -> None:
    seen = parsed(bench_page(summary))
    assert [cells[0] for cells in seen.rows[2:]] == ["pgd-at", "free", "<slow>", "fgsm"]
    figures = ["2", "90.0 ± 0.0", "80.0 ± 0.0", "70.0 ± 0.0", "32.0 ± 2.8", "25.0 ± 0.0", "50.0 ± 0.0"]
    assert seen.row("pgd-at") == ["pgd-at", *figures, "2", "1", "1", "0"]
    assert seen.row("fgsm")[-1] == "2"
    assert "pgd-at is the most robust: 32.0% under AutoAttack" in seen.text
    assert "2 of 4 recipes collapse" in seen.text
    assert "ε = 8/255" in seen.text
    assert "a processor" in seen.text


def test_the_ladder_has_four_dots_a_recipe_and_the_deviation_of_the_last(summary: dict[str, Any], parsed: Any) -> None:
    data = parsed(bench_page(summary)).figures["ladder"]["data"]
    dots = {trace["name"]: trace for trace in data if trace["mode"] == "markers"}
    assert list(dots) == ["clean", "FGSM", "PGD-20", "AutoAttack"]
    assert dots["AutoAttack"]["y"] == ["pgd-at", "free", "&lt;slow&gt;", "fgsm"]
    assert dots["AutoAttack"]["x"] == pytest.approx([0.32, 0.2, 0.1, 0.01])
    assert dots["AutoAttack"]["error_x"]["array"] == pytest.approx([0.0283, 0, 0, 0.0141], abs=1e-4)
    assert dots["clean"]["x"] == pytest.approx([0.9] * 4)


def test_the_frontier_names_what_no_cheaper_recipe_matches(summary: dict[str, Any], parsed: Any) -> None:
    figure = parsed(bench_page(summary)).figures["cost"]
    line, *points = figure["data"]
    assert (line["x"], line["y"]) == ([5.0, 50.0], [0.2, 0.32])
    assert [text for point in points for text in point["text"] if text] == ["pgd-at", "free"]
    assert "processor" in figure["layout"]["xaxis"]["title"]["text"]
    assert len(points) == 4


def test_names_keep_the_data_set_where_it_differs(summary: dict[str, Any], parsed: Any) -> None:
    summary["rows"][-1]["recipe"] = "cifar10/fgsm"
    seen = parsed(bench_page(summary))
    assert seen.row("cifar10/fgsm")[1] == "2"
    assert seen.row("digits/pgd-at")[1] == "2"


def test_one_seed_has_no_deviation(summary: dict[str, Any], parsed: Any) -> None:
    summary["rows"] = [row("digits/fgsm", [0.1], 10.0)]
    page = bench_page(summary)
    assert not re.search(r"\d ±", page)
    assert "None collapsed" in parsed(page).text
