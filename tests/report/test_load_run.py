from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from headstart.errors import UserError
from headstart.report import load_run, run_page
from headstart.report.records import collapse_epoch, curve, group_runs, sampling_interval, spread


@pytest.fixture
def folder(tmp_path: Path, run_of: Any) -> Path:
    """A run directory with everything in it."""
    run = run_of("mine")
    path = tmp_path / "mine"
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(run["config"]))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run["metrics"]))
    (path / "evaluation.json").write_text(json.dumps(run["evaluation"]))
    (path / "sweep.json").write_text(json.dumps(run["sweep"]))
    (path / "cost.json").write_text(json.dumps(run["cost"]))
    return path


def test_a_run_is_read_as_it_was_written(folder: Path, run_of: Any) -> None:
    assert load_run(folder) == run_of("mine")
    assert load_run(str(folder)) == run_of("mine")


def test_an_unfinished_run_is_read_and_shown(folder: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "sweep.json", "cost.json"):
        (folder / name).unlink()
    run = load_run(folder)
    assert (run["metrics"], run["evaluation"], run["sweep"], run["cost"]) == ([], None, None, {})
    assert "mine" in run_page([run])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", "a: [1", "config.yaml"),
        ("config.yaml", "just words", "expected keys and values, found str"),
        ("metrics.jsonl", '{"kind": "epoch", "epoch": 1}\n{"kind": "ep', "metrics.jsonl', line 2"),
        ("metrics.jsonl", '{"kind": "epoch"}\n', "no epoch number"),
        ("evaluation.json", "[]", "evaluation.json': expected keys and values, found list"),
        ("evaluation.json", '{"clean": 0.9}', "no number 'robust'"),
        ("sweep.json", '{"epsilons": [0, 1], "accuracies": [1]}', "no accuracy for each epsilon"),
        ("cost.json", "", "cost.json"),
    ],
)
def test_a_broken_file_is_named_in_one_line(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError) as error:
        load_run(folder)
    assert str(folder / name) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_a_broken_file(folder: Path) -> None:
    (folder / "cost.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cost\.json"):
        load_run(folder)


def test_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        load_run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load_run(tmp_path)


def test_spread_is_the_sample_standard_deviation_of_what_is_there() -> None:
    found = spread([2.0, 4.0, None, 9.0])
    assert found is not None
    assert found.mean == 5.0
    assert found.std == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    single = spread([3.0])
    assert single is not None
    assert single.std is None
    assert spread([None]) is None


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


def test_the_sampling_interval_is_wilsons() -> None:
    # Known values: 10 of 100 and 0 of 500 at 95 %.
    assert sampling_interval(0.10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert sampling_interval(0.0, 500) == pytest.approx((0.0, 0.00762), abs=1e-4)
