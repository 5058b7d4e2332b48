"""Which runs are averaged, and what one run's rows say."""

from __future__ import annotations

from typing import Any

from headstart.report.groups import collapse_epoch, curve, group_runs


def test_groups_hold_runs_that_differ_only_in_seed_and_place(run_of: Any) -> None:
    wider = run_of("wider")
    wider["config"]["epsilon"] = 12 / 255
    groups = group_runs([run_of("a", seed=0), wider, run_of("b", seed=1)])
    assert [(group.label, [run["name"] for run in group.runs]) for group in groups] == [
        ("fgsm-rs", ["a", "b"]),
        ("wider", ["wider"]),
    ]


def test_two_groups_of_one_method_go_by_different_names(run_of: Any) -> None:
    runs = [run_of(f"{name}-{seed}", seed=seed) for name in ("low", "high") for seed in (0, 1)]
    for run in runs[2:]:
        run["config"]["epsilon"] = 16 / 255
    assert [group.label for group in group_runs(runs)] == ["low-0", "high-0"]


def test_an_epoch_run_again_counts_as_it_went_last_and_keeps_the_collapse(run_of: Any) -> None:
    run = run_of("a")
    first, second = run["metrics"]
    run["metrics"] = [first, {**second, "collapsed": True, "val": {**second["val"], "pgd": 0.0}}, second]
    assert [row["pgd"] for row in curve(run)] == [0.3, 0.4]
    assert collapse_epoch(run) == 2


def test_training_accuracy_is_shown_only_where_nothing_was_validated(run_of: Any) -> None:
    run = run_of("a")
    assert "train" not in curve(run)[0]
    for row in run["metrics"]:
        del row["val"]
    assert curve(run) == [{"epoch": 1, "train": 0.6}, {"epoch": 2, "train": 0.6}]


def test_measurements_inside_an_epoch_come_before_its_end(run_of: Any) -> None:
    run = run_of("a")
    run["metrics"] = [
        {"epoch": 1, "val": {"pgd": 0.3}},
        {"epoch": 2, "inside": [{"epoch": 1.25, "pgd": 0.2}, {"epoch": 1.5, "pgd": 0.1}], "val": {"pgd": 0.0}},
    ]
    assert [(point["epoch"], point["pgd"]) for point in curve(run)] == [(1, 0.3), (1.25, 0.2), (1.5, 0.1), (2, 0.0)]
