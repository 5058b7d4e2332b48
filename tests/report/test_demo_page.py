"""The demo's page: its numbers, curves, pictures and settings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headstart.report import demo_page

HOSTILE = '"><script>alert(1)</script><img src=http://evil.test/x>&'


def test_the_demo_table_shows_the_numbers_of_the_input(demo: Any, details: Any, parsed: Any) -> None:
    seen = parsed(demo_page(demo, details))
    for result in demo["results"]:
        cells = seen.row(result["method"].upper())
        shown = [float(cell) / 100 for cell in cells[1:5]]
        assert shown == pytest.approx([result[key] for key in ("clean", "fgsm", "pgd", "autoattack")], abs=5e-4)
        assert float(cells[5]) == result["seconds"]
    assert seen.row("FGSM-SDI")[6:] == ["3.4", "2.4", "1"]
    assert seen.row("PGD-AT")[6:] == ["—", "—", "—"]  # its passes were not counted


def test_the_best_robust_accuracies_are_emphasised(demo: Any, details: Any) -> None:
    page = demo_page(demo, details)
    assert re.findall(r"<strong>([\d.]+)</strong>", page) == ["44.4", "15.6"]


def test_the_demo_draws_the_curves_and_marks_the_collapse(demo: Any, details: Any, parsed: Any) -> None:
    figures = parsed(demo_page(demo, details)).figures
    assert list(figures) == ["curves-0", "curves-1", "curves-2", "curves-3", "cost"]
    for i, method in enumerate(details["curves"]):
        name = f"curves-{i}"
        lines = {line["name"]: line for line in figures[name]["data"]}
        assert lines["PGD"]["y"] == [row["pgd"] for row in details["curves"][method]]
        assert lines["FGSM"]["y"] == [row["fgsm"] for row in details["curves"][method]]
        assert figures[name]["layout"]["yaxis"]["range"] == [0, 1.02]
    notes = {name: figure["layout"].get("annotations", []) for name, figure in figures.items()}
    assert [note["text"] for note in notes.pop("curves-0")] == ["collapse, epoch 3"]
    assert not any(notes.values())


def test_the_demo_plots_seconds_against_autoattack_in_the_methods_colours(demo: Any, details: Any, parsed: Any) -> None:
    figures = parsed(demo_page(demo, details)).figures
    points = figures["cost"]["data"]
    assert [(p["x"], p["y"]) for p in points] == [([r["seconds"]], [r["autoattack"]]) for r in demo["results"]]
    in_curves = [figures[f"curves-{i}"]["data"][-1]["line"]["color"] for i in range(4)]
    assert [p["marker"]["color"] for p in points] == in_curves
    assert len(set(in_curves)) == 4
    assert points[0]["error_y"]["array"][0] > 0  # none of 500 images is not proof of none at all


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
    assert "PGD-20" in str(seen.figures["cost"]["layout"]["yaxis"]["title"])  # the strongest that all were run under
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
