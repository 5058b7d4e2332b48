"""The page of runs: averages, comparisons, sweeps, and what differs between runs."""

from __future__ import annotations

import math
from typing import Any

from headstart.report import plots, run_page

LINE = {"label": "a", "colour": "#0072B2", "epsilon": 8 / 255, "accuracies": {0.0: 0.8, 4 / 255: 0.6, 8 / 255: 0.4}}
HOSTILE = '"><script>alert(1)</script><img src=http://evil.test/x>&'


def test_markup_in_the_values_of_runs_stays_text(run_of: Any, parsed: Any) -> None:
    harmless = parsed(run_page([run_of("a"), run_of("b", "fgsm-sdi")]))
    run = run_of(HOSTILE)
    run["evaluation"]["suite"] = HOSTILE
    run["evaluation"]["warnings"] = [HOSTILE]
    run["evaluation"]["attacks"] = {HOSTILE: 0.5}
    run["config"][HOSTILE] = HOSTILE
    other = run_of("b", "fgsm-sdi")
    other["evaluation"]["suite"] = HOSTILE
    seen = parsed(run_page([run, other]))
    assert [tag for tag, _ in seen.tags].count("script") == [tag for tag, _ in harmless.tags].count("script")
    assert not any(tag == "img" for tag, _ in seen.tags)
    assert f"{HOSTILE}: {HOSTILE}" in seen.text  # the warning
    assert seen.figures["cost-1"][0].startswith(f"{HOSTILE}: 44.0%")
    assert HOSTILE in seen.labels["cost-1"]


def test_runs_of_one_recipe_are_averaged_with_their_sample_deviation(run_of: Any, parsed: Any) -> None:
    runs = [run_of(f"rs-{seed}", seed=seed, robust=robust) for seed, robust in enumerate((0.40, 0.44, 0.45))]
    for run, seconds in zip(runs, (50.0, 52.0, 54.0), strict=True):
        run["cost"]["seconds"] = seconds
    seen = parsed(run_page([*runs, run_of("sdi", "fgsm-sdi", robust=0.5)]))
    # mean 0.43; deviations -0.03, 0.01, 0.02; sqrt(0.0014 / 2) = 0.02646
    assert seen.row("fgsm-rs")[1:5] == ["3", "83.0 ± 0.0", "43.0 ± 2.6", "52.0 ± 2.0"]
    (lone,) = [row for row in seen.rows if row[:2] == ["sdi", "1"]]
    assert lone[2:4] == ["83.0", "50.0"]
    # Wilson of 430 in 1000: 40.0 to 46.1; t of two degrees of freedom: 4.303 * 0.02646 / sqrt(3) = 6.57 points.
    low, high = 0.43 - math.hypot(0.0304, 0.0657), 0.43 + math.hypot(0.0309, 0.0657)
    ends = f"{100 * low:.1f} to {100 * high:.1f}"
    assert " ".join(seen.interval("fgsm-rs")[3].split()) == ends
    assert seen.figures["cost-1"][0] == f"fgsm-rs (3 runs): 43.0% (95%: {ends}) in 52.0 s"
    assert seen.figures["curves-0"][0] == (
        "epoch 1: clean 90.0%, 90.0%, 90.0%; FGSM 51.0%, 51.0%, 51.0%; PGD 30.0%, 30.0%, 30.0%"
    )


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
    assert not [name for name in seen.figures if "cost" in name], "one point each"


def test_a_run_without_evaluation_cost_or_epochs_is_shown(run_of: Any, parsed: Any) -> None:
    seen = parsed(run_page([run_of("new", robust=None, sweep=None, metrics=[], cost={})]))
    assert seen.figures == {}
    (summary, run) = [row for row in seen.rows if row[0] == "new"]
    assert summary[1:] == ["1", "—", "—", "—", "—"]
    assert set(run[2:]) == {"—"}
    assert "Never validated. Nothing chose among the weights" in " ".join(seen.text.split())
    assert "It was never validated, so nobody watched for a collapse." in seen.text
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
    assert "epsilon8/255" in seen.text
    assert seen.text.count("optimizer.momentum") == 1
    assert seen.text.count("trained elsewhere") == 1
    assert seen.text.count("cpu of the test") == 1  # where they were evaluated


def test_sweeps_are_drawn_and_tabled(run_of: Any, parsed: Any) -> None:
    other = run_of("b", "fgsm-sdi")
    other["sweep"] = {**other["sweep"], "epsilons": [0.0, 8 / 255], "accuracies": [0.8, 0.5], "warnings": [HOSTILE]}
    page = run_page([run_of("a"), other, run_of("c", "pgd-at", sweep=None)])
    seen = parsed(page)
    assert seen.figures["sweep-1"] == [
        *("a: 83.0% at 0", "a: 66.0% at 4/255", "a: 48.0% at 8/255", "a: 1.0% at 32/255"),
        *("b: 80.0% at 0", "b: 50.0% at 8/255"),
    ]
    assert [label for label in seen.labels["sweep-1"] if "%" not in label][:4] == ["0", "4/255", "8/255", "32/255"]
    tabled = [row for row in seen.rows if row and row[-2:-1] == ["pgd, 1000 images"]]
    assert tabled == [
        ["a", "83.0", "66.0", "48.0", "1.0", "pgd, 1000 images", "—"],
        ["b", "80.0", "—", "50.0", "—", "pgd, 1000 images", "1"],
    ]
    assert "sweep of b:" in seen.text
    assert HOSTILE not in page
    assert "sweep-1" not in parsed(run_page([run_of("c", sweep=None)])).figures
    lines = plots.sweeps([LINE], "sweep").wide.axes[0].lines[1:]
    large = [line.get_xdata()[0] for line in lines if line.get_markersize() > 6]
    assert large == [8 / 255], "the model's own epsilon stands out"


def test_the_best_run_is_compared_image_by_image(run_of: Any, parsed: Any) -> None:
    """200 images: one run alone withstands 40 of them against the second, and 3 against the third's 2."""

    def evaluated(name: str, broken: set[int]) -> Any:
        run = run_of(name, f"method of {name}", robust=1 - len(broken) / 200)
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
    rows = {row[0]: row[1:] for row in seen.rows if row and row[-1] in ("better", "level")}
    assert list(rows) == ["weak", "near"]
    assert rows["weak"][:5] == ["70.0", "50.0", "40", "0", "+20.0"]
    assert rows["weak"][-1] == "better"
    assert rows["near"][:5] == ["70.0", "69.5", "3", "2", "+0.5"]
    assert rows["near"][-2:] == ["1", "level"]
    assert "best has the highest robust accuracy of the 3 measured: 70.0%" in seen.text
    assert "near is level within the 95% interval" in seen.text
    runs[2]["evaluation"]["images"] = "others"
    assert "Is the best one better?" in seen.text
    assert "Is the best one better?" not in parsed(run_page(runs)).text
    assert "Is the best one better?" not in parsed(run_page(runs[:1])).text


def test_low_accuracies_have_different_ticks(run_of: Any, parsed: Any) -> None:
    seen = parsed(run_page([run_of("a", robust=0.02), run_of("b", "fgsm-sdi", robust=0.01)]))
    ticks = [label for label in seen.labels["cost-1"] if label.endswith("%")]
    assert len(ticks) == len(set(ticks)) > 3
    assert "0.5%" in ticks


def test_other_data_sets_and_epsilons_have_their_own_figures(run_of: Any, parsed: Any) -> None:
    """Two data sets of which one has two epsilons: three figures of cost and two of sweeps."""
    runs = []
    for i, (data, epsilon) in enumerate((("digits", 0.3), ("cifar10", 8 / 255), ("cifar10", 4 / 255))):
        for seed, method in enumerate(("fgsm-rs", "fgsm-sdi")):
            run = run_of(f"{method}-{i}", method, seed, metrics=[])
            run["config"]["data"] = data
            run["evaluation"]["epsilon"] = epsilon
            runs.append(run)
    seen = parsed(run_page(runs))
    assert {name: [tip.partition(":")[0] for tip in tips] for name, tips in seen.figures.items() if "cost" in name} == {
        f"cost-{i + 1}": [f"fgsm-rs-{i}", f"fgsm-sdi-{i}"] for i in range(3)
    }
    assert "standard, ε = 4/255, 1000 images of cifar10" in seen.text
    assert "must not be compared" in seen.text
    named = {name: {tip.partition(":")[0] for tip in tips} for name, tips in seen.figures.items() if "sweep" in name}
    assert named == {
        "sweep-1": {"fgsm-rs-0", "fgsm-sdi-0"},
        "sweep-2": {"fgsm-rs-1", "fgsm-sdi-1", "fgsm-rs-2", "fgsm-sdi-2"},
    }


def test_runs_that_were_never_validated_are_named_and_have_no_empty_panel(run_of: Any, parsed: Any) -> None:
    seen = parsed(run_page([run_of("whole"), run_of("cut", metrics=[], cost={})]))
    assert "Never validated: cut." in " ".join(seen.text.split())
    assert [name for name in seen.figures if "curves" in name] == ["curves-0"]


def test_a_warning_is_reached_from_its_row_and_explained(run_of: Any, parsed: Any) -> None:
    first, second = run_of("a"), run_of("b", "fgsm-sdi")
    first["evaluation"]["warnings"] = ["one image [docs/evaluation.md#part-of-the-test-set]"]
    second["evaluation"]["warnings"] = ["one image [docs/evaluation.md#part-of-the-test-set]", "other"]
    page = run_page([first, second])
    assert [parsed(page).row(name)[-1] for name in ("a", "b")] == ["1", "2"]
    assert page.count('href="#warning-1"') == 2
    said = " ".join(parsed(page).text.split())
    assert "a, b: one image What it means, and what to do" in said
    assert "Fewer images than the test set has" in said
    assert 'id="part-of-the-test-set"' in page
