"""The page of a bench: every figure of its summary, in order, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headstart.report import bench_page, plots

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
    page = bench_page(summary)
    seen = parsed(page)
    assert len(page) < 200_000
    assert [cells[0] for cells in seen.rows[2:]] == ["pgd-at", "free", "<slow>", "fgsm"]
    figures = ["2", "90.0 ± 0.0", "80.0 ± 0.0", "70.0 ± 0.0", "32.0 ± 2.8", "25.0 ± 0.0", "50.0 ± 0.0"]
    assert seen.row("pgd-at") == ["pgd-at", *figures, "2", "1", "1", "0"]
    assert seen.row("fgsm")[-1] == "2"
    assert "2 of 4 recipes collapse" in seen.text
    assert "ε = 8/255" in seen.text
    assert "a processor" in seen.text


def test_intervals_are_for_other_images_and_for_other_seeds(summary: dict[str, Any], parsed: Any) -> None:
    seen = parsed(bench_page(summary))
    assert seen.interval("free")[2].split() == ["87.1", "to", "92.3"], "Wilson's alone where all seeds agree"
    # t of one degree of freedom is 12.706: 12.706 * 2.83 / sqrt(2) = 25.4 points, and Wilson's 4.0 beside them.
    assert seen.interval("pgd-at")[5].split() == ["6.3", "to", "57.8"]


def test_the_best_is_named_with_all_that_may_be_as_good(summary: dict[str, Any], parsed: Any) -> None:
    """Two seeds of pgd-at differ by 4 points, which leaves most others open; where they agree, all are shown worse."""
    highest = "pgd-at has the highest accuracy under AutoAttack of the 4 measured: 32.0%"
    assert f"{highest}; free and <slow> are level within the 95% interval." in parsed(bench_page(summary)).text
    summary["rows"][0]["robust"] = [0.32, 0.32]
    page = bench_page(summary)
    assert f"{highest}. The monitor" in parsed(page).text
    assert re.findall(r"<strong>([\d.]+)</strong>", page) == ["32.0"]


def test_equals_are_no_winners(summary: dict[str, Any], parsed: Any) -> None:
    summary["rows"] = [row("digits/a", [0.0, 0.0], 5.0), row("digits/b", [0.0, 0.0], 6.0)]
    assert "a and b have the same accuracy under AutoAttack: 0.0%" in parsed(bench_page(summary)).text


def test_data_sets_and_epsilons_share_no_figure(summary: dict[str, Any], parsed: Any) -> None:
    fields = [{"data": "digits", "epsilon": epsilon} for epsilon in (0.3, 0.3, 8 / 255)] + [{"data": "cifar10"}]
    for given, recipe_fields in zip(summary["rows"], fields, strict=True):
        given["recipe_fields"] = recipe_fields
    summary["rows"][3]["n"] = 100
    seen = parsed(bench_page(summary))
    titles = [f"standard, ε = {e}, {n} images of {d}" for e, n, d in
              (("0.3", 500, "digits"), ("8/255", 500, "digits"), ("8/255", 100, "cifar10"))]  # fmt: skip
    assert [text for text in titles if text in seen.text] == titles
    named = {name: {tip.partition(":")[0] for tip in tips} for name, tips in seen.figures.items() if "cost" in name}
    assert named == {"cost": {"pgd-at", "free"}, "cost-1": {"<slow>"}, "cost-2": {"fgsm"}}
    assert [name for name in seen.figures if "ladder" in name] == ["ladder", "ladder-1", "ladder-2"]


def test_the_ladder_has_four_dots_a_recipe(summary: dict[str, Any], parsed: Any) -> None:
    seen = parsed(bench_page(summary))
    tips = seen.figures["ladder"]
    assert len(tips) == 16
    assert tips[:3] == ["pgd-at, clean: 90.0%", "pgd-at, FGSM: 80.0%", "pgd-at, PGD-20: 70.0%"]
    assert tips[3].startswith("pgd-at, AutoAttack: 32.0% (95%: 6.3 to 57.8)")
    assert [label for label in seen.labels["ladder"] if "%" not in label] == ["pgd-at", "free", "<slow>", "fgsm"]


def test_the_dots_of_the_ladder_stand_at_their_accuracies() -> None:
    rows = [
        ("a", {"clean": 0.9, "f": 0.5, "p": 0.4, "judge": 0.3}, (0.2, 0.4)),
        ("b", {**dict.fromkeys("cfpj", 0.1)}, None),
    ]
    for figure in (plot := plots.ladder(rows, "#0072B2", "ladder")).wide, plot.narrow:
        axes = figure.axes[0]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines[:4]] == [
            (0.9, 0), (0.5, 0), (0.4, 0), (0.3, 0)
        ]  # fmt: skip
        bar = axes.collections[1].get_segments()[0].tolist()
        assert bar == [[0.2, 0], [0.4, 0]]
        assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first stands on top"


def test_the_cost_figure_names_what_no_cheaper_recipe_matches(summary: dict[str, Any], parsed: Any) -> None:
    summary["rows"] += [row(f"digits/slow-{i}", [0.01, 0.01], 61.0 + i) for i in range(6)]
    seen = parsed(bench_page(summary))
    assert "processor time of the run, validation included, seconds" in seen.labels["cost"]
    names = {given["recipe"].removeprefix("digits/") for given in summary["rows"]}
    assert names & set(seen.labels["cost"]) == {"pgd-at", "free"}
    assert len(seen.figures["cost"]) == 10


def test_names_keep_their_book_where_recipes_that_share_a_figure_differ_in_it(
    summary: dict[str, Any], parsed: Any
) -> None:
    for given in summary["rows"]:
        given["recipe_fields"] = {"data": "digits"}
    summary["rows"][-1]["recipe"] = "mine/fgsm"
    seen = parsed(bench_page(summary))
    assert seen.row("mine/fgsm")[1] == "2"
    assert seen.row("digits/pgd-at")[1] == "2"


def test_one_seed_has_no_deviation(summary: dict[str, Any], parsed: Any) -> None:
    summary["rows"] = [row("digits/fgsm", [0.1], 10.0)]
    page = bench_page(summary)
    assert not re.search(r"\d ±", page)
    assert "None collapsed" in parsed(page).text


def test_recipes_with_curves_have_a_panel_with_the_collapse(summary: dict[str, Any], parsed: Any) -> None:
    """The recipes of records that have no curves stand in the table alone."""
    points = [{"epoch": e, "clean": 0.5, "fgsm": 0.4, "pgd": 0.4 if e < 1 else 0.0} for e in (0.5, 1, 2, 3)]
    summary["rows"][2]["curves"] = [points, points]
    seen = parsed(bench_page(summary))
    assert [name for name in seen.figures if name.startswith("curves")] == ["curves-2"]
    assert "collapse, epoch 3" in seen.labels["curves-2"]
    assert len(seen.figures["curves-2"]) == 3  # an epoch each
    assert "Accuracy over epochs" in seen.text
    del summary["rows"][2]["curves"]
    assert "Accuracy over epochs" not in parsed(bench_page(summary)).text
