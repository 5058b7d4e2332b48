from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from headstart.errors import UserError
from headstart.report import load_run, run_page


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
