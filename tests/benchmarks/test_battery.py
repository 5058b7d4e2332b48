"""The GPU battery, shrunk, on a CPU: every kind of piece writes a record that says what it should."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.battery import BEST, MARKS, STAGES, belongs, main
from benchmarks.pieces import correctness, robustness
from benchmarks.pieces.context import Context
from benchmarks.pieces.robustness import Run, mean_of

from benchmarks import battery
from headstart.methods import registry

TRAINED = Run("cifar10", "fgsm-sdi")
TRAIN, BEST_WEIGHTS = (f"{kind}-{TRAINED.name}" for kind in ("train", "autoattack"))


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Calls the battery on digits, as a user does; returns the record of the last piece named."""

    def run(*pieces: str, flags: tuple[str, ...] = ("--tiny", "--one_at_a_time")) -> dict[str, Any]:
        main(["--data", "digits", "--out", str(tmp_path), *flags, "--only", *pieces])
        path = tmp_path / f"{pieces[-1]}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    return run


def test_what_decides_most_comes_first() -> None:
    """Contracts, the shortest pair, the paper's protocol, PGD-AT, then seeds, budgets and further sets."""
    names = [name for stage in STAGES for name in stage]
    order = [
        "contracts", f"train-cifar10-{BEST}", "train-cifar10-paper-fgsm-sdi", "train-cifar10-pgd-at",
        f"train-cifar10-{BEST}-seed1", f"train-cifar10-{BEST}-epsilon16", "train-tiny-imagenet-50-fgsm-rs",
    ]  # fmt: skip
    assert [names.index(name) for name in order] == sorted(names.index(name) for name in order)
    paper, marks = (names.index(f"train-{name}") for name in ("cifar10-paper-fgsm-rs", MARKS[0].name))
    assert paper < marks < names.index("train-cifar10-pgd-at")
    assert {"train-cifar10-paper-fgsm-rs", "train-cifar10-paper-fgsm-sdi"} in [set(stage) for stage in STAGES]


def test_a_model_is_attacked_before_the_next_is_trained() -> None:
    names = [name for stage in STAGES for name in stage]
    marks = {run.name for run in MARKS}
    trained = [name.removeprefix("train-") for name in names if name.startswith("train-")]
    trained = [name for name in trained if name not in marks]
    assert len(trained) == len(set(trained)) > 20
    for now, later in zip(trained, trained[2:], strict=False):  # two are trained side by side
        attacks = [f"autoattack-{now}", f"autoattack-{now}-last", f"pgd-{now}"]
        places = [names.index(name) for name in (f"train-{now}", *attacks)]
        assert places == sorted(places)
        assert places[-1] < names.index(f"train-{later}") or names.index(f"train-{later}") < places[0]


def test_marks_have_the_device_to_themselves_and_are_attacked_at_once() -> None:
    """Their seconds count; they are validated once, so that their last weights are their best."""
    names = [name for stage in STAGES for name in stage]
    for mark in MARKS:
        assert {f"train-{mark.name}"} in [set(stage) for stage in STAGES]
        assert names.index(f"autoattack-{mark.name}-last") == names.index(f"train-{mark.name}") + 1
    assert [mark.name for mark in MARKS] == [
        "cifar10-fast-gpu-fgsm-rs-epochs8", "cifar10-fast-gpu-n-fgsm", "cifar10-fast-gpu-n-fgsm-epochs100",
    ]  # fmt: skip


def test_a_mark_is_trained_on_its_set(call: Any) -> None:
    record = call(f"train-{MARKS[0].name}")
    assert record["recipe"]["data"] == "digits"
    assert record["recipe"]["batch_size"] == 512
    assert call(f"autoattack-{MARKS[0].name}-last")["n"] == 8


def test_autoattack_beside_plain(call: Any) -> None:
    """On a model that is trained already, with the same verdicts."""
    first = next(name for stage in STAGES for name in stage if name.startswith("evaluation-"))
    call(f"train-{first.removeprefix('evaluation-')}")
    record = call(first)
    assert record["n"] == 4
    assert record["contestants"]["auto"]["rows_unlike_plain"] == []
    assert record["contestants"]["auto"]["seconds_to_plain"] > 0


def test_pieces_know_their_set() -> None:
    assert not belongs(f"train-{MARKS[0].name}", ["cifar100"])
    assert belongs(f"train-{MARKS[0].name}", ["cifar10"])
    assert belongs("train-tiny-imagenet-50-fgsm-rs", ["tiny-imagenet-50"])
    assert not belongs("train-tiny-imagenet-50-fgsm-rs", ["tiny-imagenet"])
    assert belongs("train-cifar10-paper-fgsm-rs", ["cifar10"])
    assert belongs("autoattack-cifar100-fgsm-rs-last", ["cifar100"])


@pytest.mark.parametrize("piece", ["correctness", "graphs"])
def test_losses_of_every_method(call: Any, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: entry for name, entry in registry.methods().items() if name in DRAWN_ON_THE_CPU}
    monkeypatch.setattr(correctness, "methods", lambda: few)
    record = call(piece)
    assert set(record["methods"]) == set(few)
    assert all(row["largest_difference"] == 0 for row in record["methods"].values())  # both are this CPU
    assert record["tiny"] is True
    assert record["environment"]["torch"] == torch.__version__


DRAWN_ON_THE_CPU = {"fgsm", "fgsm-rs", "fgsm-sdi", "n-fgsm", "pgd-at", "standard"}


def test_speed(call: Any) -> None:
    rows = {row["method"]: row for row in call("throughput-graphs")["rows"]}
    assert {name: rows[name]["passes_per_update"]["forwards"] for name in ("standard", "pgd-at")} == {
        "standard": 1,
        "pgd-at": 11,
    }
    assert all(row["seconds_per_update"] > 0 for row in rows.values())
    assert all(row["share_of_eager_bound"] > 0 for row in rows.values())
    seconds = call("literal")["seconds_per_update"]
    assert set(seconds) == {"literal fp32", "headstart fp32", "headstart bf16", "headstart bf16 graphs"}
    passes = call("passes-imagenet")
    assert set(passes["pass_seconds"]) >= {"forwards", "input_gradients", "backwards"}
    assert passes["generator_seconds"] > 0


def test_training_and_its_evaluation(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(TRAIN)["cost"]["updates"] == 3
    for piece in (BEST_WEIGHTS, f"{BEST_WEIGHTS}-last", f"pgd-{TRAINED.name}"):
        record = call(piece)
        assert record["n"] == 8
        assert record["complete"] is True
        assert "broken_by" not in record
    call(TRAIN)
    assert f"{TRAIN}: has a record" in capsys.readouterr().out


def test_what_stands_on_one_line_runs_side_by_side(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As processes of their own, whose records are the same as if they had run alone."""
    both = [name for stage in STAGES if TRAIN in stage for name in stage]
    assert len(both) == 2
    assert call(*both, flags=("--tiny",))["cost"]["updates"] == 3
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in both)
    assert "failed" not in said


def test_a_long_training_goes_on_when_called_again(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(TRAIN, flags=("--tiny", "--minutes", "1e-9")) == {}
    assert "call the battery again" in capsys.readouterr().out
    context = Context({"cifar10": "digits"}, Path(), tiny=True, until=0)
    assert context.seconds_left() < 0
    assert call(TRAIN)["cost"]["updates"] == 3


def test_a_training_is_cut_off_when_time_is_up(tmp_path: Path) -> None:
    context = Context({"cifar10": "digits"}, tmp_path, tiny=True, until=time.monotonic() - 1)
    assert list(battery.run(context, [TRAIN])) == [f"{TRAIN}: cut off; call the battery again to go on"]
    assert not (tmp_path / f"{TRAIN}.json").exists()
    context = Context({"cifar10": "digits"}, tmp_path, tiny=True)
    list(battery.run(context, [TRAIN]))
    assert json.loads((tmp_path / f"{TRAIN}.json").read_text())["cost"]["updates"] == 3


def test_autoattack_goes_on_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record says how many images it has; the next call adds the rest, to what one call finds."""
    monkeypatch.setattr(robustness, "SLICE", 4)
    context = Context({"cifar10": "digits"}, tmp_path, tiny=True)
    list(battery.run(context, [TRAIN]))
    now = time.monotonic()
    looks = iter([now, now + 2])  # time for one slice of two
    cut = Context({"cifar10": "digits"}, tmp_path, tiny=True, until=now + 1)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.pieces.context.time.monotonic", lambda: next(looks))
        (said,) = battery.run(cut, [BEST_WEIGHTS])
    assert said.endswith("(so far)")
    path = tmp_path / f"{BEST_WEIGHTS}.json"
    partial = json.loads(path.read_text())
    assert (partial["n"], partial["complete"]) == (4, False)
    list(battery.run(context, [BEST_WEIGHTS]))
    whole = json.loads(path.read_text())
    assert (whole["n"], whole["complete"]) == (8, True)
    for part in (tmp_path / "runs" / TRAINED.name).glob("autoattack-*.json"):
        part.unlink()
    path.unlink()
    monkeypatch.setattr(robustness, "SLICE", 1000)
    list(battery.run(context, [BEST_WEIGHTS]))
    assert json.loads(path.read_text())["clean"] == whole["clean"]


def test_mean_of_slices() -> None:
    rows = [(1000, 0.5, ["a"]), (500, 0.2, ["a", "b"])]
    records = []
    for n, robust, warnings in rows:
        record: dict[str, Any] = {
            "suite": "standard",
            "n": n,
            "epsilon": 0.1,
            "clean": 0.9,
            "robust": robust,
            "seconds": 1.0,
        }
        record |= {"attacks": {"apgd-ce": robust}, "warnings": warnings}
        records.append(record)
    mean = mean_of(records)
    assert mean["n"] == 1500
    assert mean["robust"] == pytest.approx(0.4)
    assert mean["attacks"] == {"apgd-ce": pytest.approx(0.4)}
    assert mean["warnings"] == ["a", "b"]


def test_sets_that_are_not_given_are_left_out(
    call: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battery, "run", lambda context, names: iter(names))
    call("train-cifar100-fgsm-rs", TRAIN, "train-tiny-imagenet-50-fgsm-rs")
    assert capsys.readouterr().out.splitlines() == [TRAIN]
