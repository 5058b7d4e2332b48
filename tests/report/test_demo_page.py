"""The demo's page: its numbers, curves, pictures and settings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headstart.report import demo_page, drawing, plots
from headstart.report.cost_plot import Point, cost_plot
from headstart.report.numbers import sampling_interval

HOSTILE = '"><script>alert(1)</script><img src=http://evil.test/x>&'


def evaluation(robust: float) -> dict[str, Any]:
    """Of 200 images, the first ones withstand."""
    stand = round(200 * robust)
    how = {"suite": "standard", "n": 200, "epsilon": 0.3, "norm": "linf", "images": "those"}
    return {**how, "broken_by": [None] * stand + ["square"] * (200 - stand)}


def test_the_demo_table_shows_the_numbers_of_the_input(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    for result in demo["results"]:
        cells = seen.row(result["method"].upper())
        shown = [float(cell) / 100 for cell in cells[1:5]]
        assert shown == pytest.approx([result[key] for key in ("clean", "fgsm", "pgd", "autoattack")], abs=5e-4)
        assert float(cells[5]) == result["seconds"]
    assert seen.row("FGSM-SDI")[6:] == ["3.4", "2.4", "1"]
    assert seen.row("PGD-AT")[6:] == ["—", "—", "—"]  # its passes were not counted


def test_every_accuracy_has_its_interval(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    for result in demo["results"]:
        for key, ends in zip(
            ("clean", "fgsm", "pgd", "autoattack"), seen.interval(result["method"].upper())[1:5], strict=True
        ):
            low, high = sampling_interval(result[key], 500)
            assert ends.split() == [f"{100 * low:.1f}", "to", f"{100 * high:.1f}"]


def test_the_most_robust_and_all_that_may_be_are_emphasised(demo: Any) -> None:
    details: dict[str, Any] = {}

    def emphasised() -> list[str]:
        return re.findall(r"<strong>([\d.]+)</strong>", demo_page(demo, details))

    assert emphasised() == ["15.6"]
    demo["n"] = 200  # 4.6 points are nothing on 200 images, unless image by image nearly all speak for one
    assert emphasised() == ["11.0", "15.6"]
    details["evaluations"] = {result["method"]: evaluation(result["autoattack"]) for result in demo["results"]}
    assert emphasised() == ["15.6"]
    details["evaluations"]["fgsm-sdi"]["broken_by"].reverse()
    assert emphasised() == ["11.0", "15.6"]


def test_the_demo_draws_the_curves_and_marks_the_collapse(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    assert list(seen.figures) == ["curves-0", "curves-1", "curves-2", "curves-3", "cost"]
    for i, method in enumerate(details["curves"]):
        assert seen.figures[f"curves-{i}"] == [
            f"epoch {row['epoch']}: clean 90.0%; FGSM {row['fgsm']:.1%}; PGD {row['pgd']:.1%}"
            for row in details["curves"][method]
        ]
    notes = {name: [text for text in texts if "collapse" in text] for name, texts in seen.labels.items()}
    assert notes.pop("curves-0") == ["collapse, epoch 3"]
    assert not any(notes.values())


def test_the_curves_are_drawn_where_they_were_measured(details: Any) -> None:
    epochs = details["curves"]["fgsm-sdi"]
    axes = plots.curves([epochs], "#0072B2", None, "curves", "FGSM-SDI").wide.axes[0]
    drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_color()) for line in axes.lines]
    assert drawn[-1] == ([1, 2, 3], [row["pgd"] for row in epochs], "#0072B2")
    assert drawn[-2] == ([1, 2, 3], [row["fgsm"] for row in epochs], "#0072B2")
    assert axes.get_ylim() == (0, 1.02)


def test_the_demo_plots_seconds_against_autoattack_in_the_methods_colours(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    for result, tip in zip(demo["results"], seen.figures["cost"], strict=True):
        low, high = sampling_interval(result["autoattack"], 500)  # none of 500 images is not proof of none at all
        ends = f"(95%: {100 * low:.1f} to {100 * high:.1f})"
        assert tip == f"{result['method'].upper()}: {result['autoattack']:.1%} {ends} in {result['seconds']} s"
    names = {result["method"].upper() for result in demo["results"]}
    assert names <= set(seen.labels["cost"])
    assert "accuracy under AutoAttack" in seen.labels["cost"]


def test_points_stand_at_their_cost_and_accuracy_in_their_colour() -> None:
    points = [
        Point("$a$", "#D55E00", 10.0, 0.2, (0.1, 0.3)),
        Point("b_b", "#CC79A7", 40.0, 0.25),
        Point("c", "#0072B2", 41, 0),
    ]
    plot = cost_plot(points, "seconds", "PGD", "cost")
    for figure in (plot.wide, plot.narrow):
        assert figure is not None
        frontier, *dots = figure.axes[0].lines
        assert [(*dot.get_xydata()[0], dot.get_color()) for dot in dots] == [
            (p.cost, p.robust, p.colour) for p in points
        ]
        assert frontier.get_xydata().tolist() == [[10, 0.2], [40, 0.25]], "c is dearer and weaker"
        (bar,) = figure.axes[0].collections
        assert bar.get_paths()[0].vertices.tolist() == [[10, 0.1], [10, 0.3]]
        written = [note.get_window_extent() for note in figure.axes[0].texts]
        assert not any(a.overlaps(b) for i, a in enumerate(written) for b in written[:i])
    assert ">$a$</text>" in drawing.svg(plot.wide), "no mathematics"


def test_the_demo_shows_samples_with_predictions(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    assert [row[1:] for row in seen.rows if row[0] == "prediction"] == [["✓ cat", "✗ dog"]] * 4
    assert [row[1:] for row in seen.rows if row[0] == "initial perturbation"] == [["starts from zero"], *[["", ""]] * 3]
    pictures = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == 2 + 2 * (2 + 3 + 3 + 3)


def test_the_demo_page_names_settings_and_environment(demo: Any, details: Any, parsed: Any) -> None:
    text = parsed(demo_page({**demo, "settings": {"optimizer": {"lr": 0.003}}}, details)).text
    assert "optimizer.lr0.003" in text
    assert "cpu of the test" in text


def test_missing_parts_of_the_demo_are_left_out(demo: Any, parsed: Any) -> None:
    del demo["environment"], demo["n"], demo["seed"]
    demo["results"][0]["autoattack"] = None
    del demo["results"][1]["autoattack"]
    seen = parsed(demo_page(demo, {}))
    assert seen.row("FGSM")[4] == "—"
    assert seen.row("FGSM-RS")[4] == "—"
    assert list(seen.figures) == ["cost"]
    assert "accuracy under PGD-20" in seen.labels["cost"]  # the strongest that all were run under
    assert not any(tag == "img" for tag, _ in seen.tags)
    assert "collapse" not in seen.text.split("Accuracy and cost")[0]


def test_markup_in_the_demos_values_stays_text(demo: Any, details: Any, parsed: Any) -> None:
    harmless = parsed(demo_page(demo, details))
    demo["data"], demo["environment"]["device"] = HOSTILE, HOSTILE
    demo["results"][1]["method"] = HOSTILE
    for part in ("curves", "collapse"):
        details[part][HOSTILE] = details[part].pop("fgsm-rs")
    details["samples"]["classes"][0] = HOSTILE
    details["samples"]["per_method"][HOSTILE] = details["samples"]["per_method"].pop("fgsm-rs")
    seen = parsed(demo_page(demo, details))
    assert [tag for tag, _ in seen.tags].count("script") == [tag for tag, _ in harmless.tags].count("script")
    assert [tag for tag, _ in seen.tags].count("img") == [tag for tag, _ in harmless.tags].count("img")
    assert HOSTILE in seen.text
    assert f"image, {HOSTILE}" in [attributes.get("alt") for _, attributes in seen.tags]


def test_the_demo_says_whether_linearity_warned(demo: Any, details: Any, parsed: Any) -> None:
    assert "Local linearity over training" not in parsed(demo_page(demo, details)).text, "an older record has none"
    for method, rows in details["curves"].items():
        for row, value in zip(rows, (0.9, 0.4, 0.1) if method == "fgsm" else (0.9, 0.8, 0.6), strict=True):
            row["linearity"] = value
    page = demo_page(demo, details)
    seen = parsed(page)
    assert "The local linearity of fgsm fell below 0.60" in seen.text
    assert "at epoch 2, before the collapse at epoch 3" in seen.text
    assert page.count("local linearity</text>") == 1
