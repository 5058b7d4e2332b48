"""The page of runs: averages, comparisons, sweeps, and what differs between runs."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report import run_page

HOSTILE = '"><script>alert(1)</script><img src=http://evil.test/x>&'


def test_markup_in_the_values_of_runs_stays_text(run_of: Any, parsed: Any) -> None:
    harmless = parsed(run_page([run_of("a"), run_of("b", "fgsm-sdi")]))
    run = run_of(HOSTILE)
    run["evaluation"]["suite"] = HOSTILE
    run["evaluation"]["warnings"] = [HOSTILE]
    run["evaluation"]["attacks"] = {HOSTILE: 0.5}
    run["config"][HOSTILE] = HOSTILE
    seen = parsed(run_page([run, run_of("b", "fgsm-sdi")]))
    assert [tag for tag, _ in seen.tags].count("script") == [tag for tag, _ in harmless.tags].count("script")
    assert not any(tag == "img" for tag, _ in seen.tags)
    assert f"{HOSTILE}: {HOSTILE}" in seen.text  # the warning
    (label,) = seen.figures["cost"]["data"][0]["text"]
    assert label.strip() == HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"), (
        "as plotly reads it"
    )


def test_runs_of_one_recipe_are_averaged_with_their_sample_deviation(run_of: Any, parsed: Any) -> None:
    runs = [run_of(f"rs-{seed}", seed=seed, robust=robust) for seed, robust in enumerate((0.40, 0.44, 0.45))]
    for run, seconds in zip(runs, (50.0, 52.0, 54.0), strict=True):
        run["cost"]["seconds"] = seconds
    seen = parsed(run_page([*runs, run_of("sdi", "fgsm-sdi", robust=0.5)]))
    # mean 0.43; deviations -0.03, 0.01, 0.02; sqrt(0.0014 / 2) = 0.02646
    assert seen.row("fgsm-rs")[1:5] == ["3", "83.0 ± 0.0", "43.0 ± 2.6", "52.0 ± 2.0"]
    (lone,) = [row for row in seen.rows if row[:2] == ["sdi", "1"]]
    assert lone[2:4] == ["83.0", "50.0"]
    (averaged, _) = seen.figures["cost"]["data"]
    assert (averaged["x"], averaged["y"]) == ([52.0], pytest.approx([0.43]))
    assert averaged["error_y"]["array"] == pytest.approx([0.026458], abs=1e-6)
    assert len(seen.figures["curves-0"]["data"]) == 9  # three lines of each of three runs


def test_runs_measured_differently_are_neither_averaged_nor_ranked(run_of: Any, parsed: Any) -> None:
    quick = run_of("quick", seed=1, robust=0.6)
    quick["evaluation"]["suite"] = "quick"
    page = run_page([run_of("standard", seed=0), quick])
    seen = parsed(page)
    measured = [row[-1] for row in seen.rows if row[0] in ("standard", "quick") and row[1] == "1"]
    assert measured == ["standard, ε = 8/255, 1000 images", "quick, ε = 8/255, 1000 images"]
    assert "must not be compared" in seen.text
    assert "<strong>" not in page
    assert "highest" not in seen.text


def test_a_run_without_evaluation_cost_or_epochs_is_shown(run_of: Any, parsed: Any) -> None:
    seen = parsed(run_page([run_of("new", robust=None, sweep=None, metrics=[], cost={})]))
    assert seen.figures == {}
    (summary, run) = [row for row in seen.rows if row[0] == "new"]
    assert summary[1:] == ["1", "—", "—", "—", "—"]
    assert set(run[2:]) == {"—"}
    assert "0 of 1 runs were watched" in seen.text
    assert "No robust accuracy has been measured yet" in seen.text


def test_each_run_is_listed_with_its_passes_memory_and_collapse(run_of: Any, parsed: Any) -> None:
    collapsed = run_of("bad", "fgsm")
    collapsed["metrics"][1]["collapsed"] = True
    seen = parsed(run_page([run_of("good"), collapsed]))
    (good,) = [row for row in seen.rows if row[:2] == ["good", "fgsm-rs"]]
    assert good[2:] == ["2", "90.0", "52.0", "40.0", "—", "50.0", "3.4", "2.4", "1", "3.0"]
    (bad,) = [row for row in seen.rows if row[:2] == ["bad", "fgsm"]]
    assert bad[6] == "epoch 2"
    assert "Collapsed: bad at epoch 2." in seen.text


def test_only_what_differs_is_a_column_and_the_rest_is_listed_once(run_of: Any, parsed: Any) -> None:
    first, second = run_of("a"), run_of("b")
    first["config"]["optimizer"] = {"lr": 0.1, "momentum": 0.9}
    first["cost"]["environment"] = second["cost"]["environment"] = {"device": "trained elsewhere"}
    second["config"]["optimizer"] = {"lr": 0.2, "momentum": 0.9}
    seen = parsed(run_page([first, second]))
    assert [row[-1] for row in seen.rows if len(row) > 8 and row[0] in ("a", "b")] == ["0.1", "0.2"]
    assert seen.text.count("optimizer.momentum") == 1
    assert seen.text.count("trained elsewhere") == 1
    assert seen.text.count("cpu of the test") == 1  # where they were evaluated


def test_sweeps_are_drawn_and_tabled(run_of: Any, parsed: Any) -> None:
    other = run_of("b", "fgsm-sdi")
    other["sweep"] = {**other["sweep"], "epsilons": [0.0, 8 / 255], "accuracies": [0.8, 0.5], "warnings": [HOSTILE]}
    page = run_page([run_of("a"), other, run_of("c", "pgd-at", sweep=None)])
    seen = parsed(page)
    lines = {line["name"]: line for line in seen.figures["sweep"]["data"]}
    assert list(lines) == ["a", "b"]
    assert lines["a"]["y"] == [0.83, 0.66, 0.48, 0.01]
    sizes = lines["a"]["marker"]["size"]
    assert sizes.index(max(sizes)) == 2, "the model's own epsilon stands out"
    tabled = [row for row in seen.rows if row and row[-1] == "pgd, 1000 images"]
    assert tabled == [
        ["a", "83.0", "66.0", "48.0", "1.0", "pgd, 1000 images"],
        ["b", "80.0", "—", "50.0", "—", "pgd, 1000 images"],
    ]
    assert "b, sweep:" in seen.text
    assert HOSTILE not in page
    assert "sweep" not in parsed(run_page([run_of("c", sweep=None)])).figures


def test_the_best_run_is_compared_image_by_image(run_of: Any, parsed: Any) -> None:
    """200 images: one run alone withstands 40 of them against the second, and 3 against the third's 2."""

    def evaluated(name: str, broken: set[int]) -> Any:
        run = run_of(name, robust=1 - len(broken) / 200)
        fallen = ["square" if i in broken else None for i in range(200)]
        run["evaluation"] |= {"n": 200, "norm": "linf", "images": "those", "broken_by": fallen}
        return run

    runs = [
        evaluated("weak", set(range(100))),
        evaluated("best", set(range(60))),
        evaluated("near", {*range(58), 60, 61, 62}),
    ]
    seen = parsed(run_page(runs))
    assert seen.row("weak")[1:]  # the table of results comes first
    rows = {row[0]: row[1:] for row in seen.rows if row and row[-1] in ("shown", "not shown")}
    assert list(rows) == ["weak", "near"]
    assert rows["weak"][:5] == ["70.0", "50.0", "40", "0", "+20.0"]
    assert rows["weak"][-1] == "shown"
    assert rows["near"][:5] == ["70.0", "69.5", "3", "2", "+0.5"]
    assert rows["near"][-2:] == ["1", "not shown"]
    runs[2]["evaluation"]["images"] = "others"
    assert "Is the best one better?" in seen.text
    assert "Is the best one better?" not in parsed(run_page(runs)).text
    assert "Is the best one better?" not in parsed(run_page(runs[:1])).text


def test_low_accuracies_have_different_ticks(run_of: Any, parsed: Any) -> None:
    figure = parsed(run_page([run_of("a", robust=0.02), run_of("b", "fgsm-sdi", robust=0.01)])).figures["cost"]
    assert figure["layout"]["yaxis"]["tickformat"] == ".1~%", "1.5% and 2%, not 2% twice"
