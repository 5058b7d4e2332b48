"""The GPU battery, shrunk, on a CPU: every kind of piece writes a record that says what it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.battery import PIECES, main
from benchmarks.pieces import correctness
from benchmarks.pieces.context import Context
from benchmarks.pieces.robustness import Run, mean_of

from benchmarks import battery
from headstart.methods import registry

TRAINED = Run("cifar10", "fgsm-sdi").pieces(1)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls the battery on digits, as a user does; returns the record of the last piece named."""
    monkeypatch.setattr(battery, "PIECES", {**PIECES, **TRAINED})

    def run(*pieces: str, flags: tuple[str, ...] = ("--tiny",)) -> dict[str, Any]:
        main(["--data", "digits", "--out", str(tmp_path), *flags, "--only", *pieces])
        path = tmp_path / f"{pieces[-1]}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    return run


def test_order_and_sections() -> None:
    """Correctness, then speed, then robustness; of robustness FGSM-SDI first."""
    names = list(PIECES)
    assert names[:2] == ["contracts", "correctness"]
    assert names.index("literal") < names.index("train-fgsm-sdi") < names.index("train-fgsm-rs")
    for wanted in ("autoattack-fgsm-sdi-10", "train-pgd-at", "train-liet", "train-fgsm-sdi-epochs110"):
        assert wanted in names
    for kind in ("cifar100", "tiny-imagenet", "epsilon16", "seed2"):
        assert any(kind in name for name in names)


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
    train, part, mean, pgd = TRAINED
    assert call(train)["cost"]["updates"] == 3
    record = call(part, mean, pgd)
    assert record["n"] == 8
    assert "broken_by" not in record
    call(train)
    assert f"{train}: has a record" in capsys.readouterr().out


def test_a_long_training_goes_on_when_called_again(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train, *_ = TRAINED
    assert call(train, flags=("--tiny", "--minutes", "0")) == {}
    assert "call the battery again" in capsys.readouterr().out
    assert call(train)["cost"]["updates"] == 3


def test_mean_of_slices(tmp_path: Path) -> None:
    rows = [(1000, 0.5, ["a"]), (500, 0.2, ["a", "b"])]
    for k, (n, robust, warnings) in enumerate(rows):
        record = {"suite": "standard", "n": n, "epsilon": 0.1, "clean": 0.9, "robust": robust, "seconds": 1.0}
        record |= {"attacks": {"apgd-ce": robust}, "warnings": warnings}
        (tmp_path / f"part-{k}.json").write_text(json.dumps(record))
    mean = mean_of(["part-0", "part-1"])(Context({}, tmp_path))
    assert mean["n"] == 1500
    assert mean["robust"] == pytest.approx(0.4)
    assert mean["attacks"] == {"apgd-ce": pytest.approx(0.4)}
    assert mean["warnings"] == ["a", "b"]


def test_sets_that_are_not_given_are_left_out(
    call: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battery, "run", lambda context, names: iter(names))
    call("train-cifar100-liet", "train-liet", "train-tiny-imagenet-fgsm-rs")
    assert capsys.readouterr().out.splitlines() == [
        "left out: the pieces on cifar100 and tiny-imagenet, which no flag names", "train-liet"
    ]  # fmt: skip
