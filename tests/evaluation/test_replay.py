"""Evaluations made anew from their records: those of today, older ones, and those that do not agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from headstart.commands.main import main
from headstart.data import load
from headstart.errors import UserError
from headstart.evaluation.evaluate import evaluate, evaluate_into
from headstart.evaluation.replay import replay
from tests.evaluation.test_evaluate_processes import nearest_mean

Capture = pytest.CaptureFixture[str]
ASKED: dict[str, Any] = {"data": "digits", "epsilon": "1/10", "n": 60, "batch_size": 7, "seed": 3, "suite": "pgd"}
SOURCE = f"{nearest_mean.__module__}:nearest_mean"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The record of an evaluation in which some images fall and some do not."""
    found = evaluate_into(tmp_path / "evaluation.json", SOURCE, device="cpu", progress=False, **ASKED)
    assert 0 < found.robust < found.clean
    return tmp_path / "evaluation.json"


def changed(path: Path, **changes: Any) -> None:
    """Write the record with other values; None takes the key away."""
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None or key == "n"}))


def test_a_record_replays_to_the_same_verdicts(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert stored["request"]["source"] == SOURCE
    assert {name: stored["request"][name] for name in ASKED} == {**ASKED, "epsilon": 0.1}
    again = replay(path, progress=False)
    assert again.agrees
    assert again.now.broken_by == stored["broken_by"]
    assert again.now.margin == stored["margin"]
    assert again.verdict == "all 60 verdicts are those of the record"


def test_a_record_from_before_settings_were_kept_replays_once_the_source_is_named(path: Path) -> None:
    changed(path, request=None)
    assert "request" not in json.loads(path.read_text())
    with pytest.raises(UserError, match=r"evaluation\.json does not say what was evaluated; name the source"):
        replay(path)
    assert replay(path, SOURCE, data="digits", progress=False).agrees
    with pytest.raises(UserError, match="which data"):
        replay(path, SOURCE, progress=False)


def test_what_was_left_open_is_taken_from_the_record(tmp_path: Path) -> None:
    """The weights may say another epsilon by now, and another device has another default of batch_size."""
    path = tmp_path / "evaluation.json"
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    evaluate_into(path, network, data="digits", suite="fgsm", epsilon=0.02, n=30, device="cpu", progress=False)
    record = json.loads(path.read_text())
    assert (record["request"]["source"], record["request"]["batch_size"]) == ("python:Sequential", None)
    again = replay(path, network, progress=False)
    assert again.agrees
    assert again.now.request is not None
    assert again.now.request["batch_size"] == record["batch_size"] == 250
    with pytest.raises(UserError, match="does not say what was evaluated"):
        replay(path)


def test_images_from_python_are_asked_for(tmp_path: Path) -> None:
    path, network = tmp_path / "evaluation.json", nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = load("digits", "test").take(slice(0, 20), "twenty").tensors()
    evaluate_into(path, network, data=(x, y), suite="fgsm", epsilon=0.02, device="cpu", progress=False)
    with pytest.raises(UserError, match=r"data of .*evaluation\.json was given from Python; give it again"):
        replay(path, network, progress=False)
    assert replay(path, network, data=(x, y), progress=False).agrees
    other = replay(path, network, data=(255 - x, y), progress=False)
    assert not other.agrees
    assert other.verdict == "the images are not those of the record"


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({}, {"suite": "quick"}, "suite is 'pgd' in .*; leave it out, or evaluate anew"),
        ({}, {"epsilon": "8/255"}, r"epsilon is 0\.1 in"),
        ({"images": None, "broken_by": None}, {}, "lacks images, broken_by: it is too old to be replayed"),
        ({"robust": None}, {}, "is no evaluation"),
        ({"attacks": {"transfer": 0.5}}, {}, "does not say which second network was used; give transfer_from"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    path: Path, changes: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    changed(path, **changes)
    with pytest.raises(UserError, match=said):
        replay(path, progress=False, **given)


def test_what_does_not_contradict_the_record_may_be_given(path: Path) -> None:
    assert replay(path, progress=False, epsilon="1/10", device="cpu", devices=1).agrees


# The command -------------------------------------------------------------------------------------------------------


def test_the_command_says_whether_the_verdicts_agree(path: Path, tmp_path: Path, capsys: Capture) -> None:
    before = path.read_bytes()
    assert main(["evaluate", "--replay", str(path), "--out", str(tmp_path / "again.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"{path}: all 60 verdicts are those of the record\n")
    assert re.search(r"robust  \d+\.\d\d%  \(pgd, 60 images", printed)
    assert path.read_bytes() == before, "the record stays"
    assert json.loads((tmp_path / "again.json").read_text())["broken_by"] == json.loads(before)["broken_by"]


def test_the_command_exits_with_1_where_a_verdict_is_another(path: Path, capsys: Capture) -> None:
    broken_by = json.loads(path.read_text())["broken_by"]
    row = broken_by.index(None)
    broken_by[row] = "pgd-20"
    changed(path, broken_by=broken_by)
    assert main(["evaluate", "--replay", str(path)]) == 1
    assert f"1 of 60 verdicts differ from the record's (rows {row})" in capsys.readouterr().out


def test_a_run_evaluated_before_replays(tmp_path: Path, capsys: Capture) -> None:
    weights = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), weights)
    asked: dict[str, Any] = {"model": f"{__name__}:linear", "data": "digits", "epsilon": 0.02, "n": 20, "suite": "fgsm"}
    found = evaluate(weights, device="cpu", progress=False, **asked)
    record = tmp_path / "old.json"
    record.write_text(json.dumps({key: value for key, value in found.to_json().items() if key != "request"}))
    flags = ["--model", asked["model"], "--data", "digits"]
    assert main(["evaluate", str(weights), "--replay", str(record), *flags]) == 0
    assert main(["evaluate", "--replay", str(record)]) == 2
    assert "does not say what was evaluated" in capsys.readouterr().err
    assert main(["evaluate", "--replay", str(tmp_path / "none.json")]) == 2


def linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
