"""Going on with a run from its folder alone, to its end or further, and starts that fail."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from headstart.commands.main import main
from headstart.errors import DataError
from headstart.recipes.reader import load_recipe
from headstart.report import load_run
from headstart.training.train import Trainer

FLAGS = "--epochs 2 --batch_size 256 --val_size 50 --model_args.widths [4,8] --epsilon_ramp 0 --device cpu --log none"
TRAIN = ["train", "digits/fgsm-rs", *shlex.split(FLAGS)]
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def failing(error: BaseException, at: int) -> Callable[..., None]:
    """An update that fails when so many have been made."""
    update = Trainer.update

    def fail(self: Trainer, batch: Any) -> None:
        if self.clock.update == at:
            raise error
        update(self, batch)

    return fail


def test_from_the_folder_alone(capsys: Capture) -> None:
    """Cut short, gone on with, finished, and then longer than planned."""
    assert main([*TRAIN, "--out", "cut", "--max_steps", "7"]) == 0
    capsys.readouterr()
    assert main(["resume", "cut"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cut has reached max_steps 7; measure it with: headstart evaluate cut",
        "to train on: headstart resume cut --max_steps null",
    ]
    assert main(["resume", "cut", "--max_steps", "null"]) == 0
    assert main([*TRAIN, "--out", "whole"]) == 0
    assert rows("cut") == rows("whole")
    assert yaml.safe_load(Path("cut/config.yaml").read_text())["max_steps"] is None
    capsys.readouterr()

    before = Path("cut/model.safetensors").stat().st_mtime_ns
    for again in (["resume", "cut"], [*TRAIN, "--out", "cut", "--resume"]):
        assert main(again) == 0
        told = capsys.readouterr().out
        assert "cut is finished; measure it with: headstart evaluate cut" in told
        assert "to train on: headstart resume cut --epochs N (it has 2)" in told
    assert Path("cut/model.safetensors").stat().st_mtime_ns == before

    assert main(["resume", "cut", "--epochs", "3"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("from 2 epochs to 3"))
    assert line.endswith("where a run of 3 epochs has it after 2, along that schedule to its end")
    assert [row["epoch"] for row in rows("cut")] == [1, 2, 3]
    assert rows("cut")[:2] == rows("whole")
    assert load_recipe("cut/config.yaml").epochs == 3
    assert main(["resume", "cut", "--epochs", "1"]) == 2
    assert "epochs is 1, but the run has 3 behind it" in capsys.readouterr().err
    assert main([*TRAIN, "--out", "cut", "--resume", "--epochs", "5"]) == 2  # only resume is told on purpose


def test_weights_that_no_validation_chose(capsys: Capture) -> None:
    assert main([*TRAIN, "--out", "run", "--max_steps", "2"]) == 0
    captured = capsys.readouterr()
    assert "validation: none at the full epsilon" in captured.out
    assert "no validation chose these weights" in captured.err
    assert load_run("run")["cost"]["validated"] is False
    assert main(["resume", "run", "--max_steps", "null"]) == 0
    captured = capsys.readouterr()
    assert "validation: clean" in captured.out
    assert "no validation" not in captured.err
    assert load_run("run")["cost"]["validated"] is True


@pytest.mark.parametrize(
    "error",
    [DataError("a broken image"), torch.OutOfMemoryError("too little"), KeyboardInterrupt(), ValueError("a fault")],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_start_does_not_block_the_second(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", failing(error, at=1))
        if isinstance(error, ValueError):
            with pytest.raises(ValueError, match="a fault"):
                main([*TRAIN, "--out", "run", "--log", "csv"])
        else:
            assert main([*TRAIN, "--out", "run", "--log", "csv"]) in (2, 130)
    assert not Path("run").exists()
    assert main([*TRAIN, "--out", "run", "--batch_size", "128", "--max_steps", "1"]) == 0


def test_a_failure_after_a_checkpoint_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", failing(DataError("a broken image"), at=6))
        assert main([*TRAIN, "--out", "run"]) == 2
    assert main(["resume", "run"]) == 0
    assert len(rows("run")) == 2


def test_the_batch_that_diverged_is_kept_and_blocks_nothing(capsys: Capture) -> None:
    assert main([*TRAIN, "--out", "run", "--lr", "1e30", "--optimizer", "sgd", "--epsilon_ramp", "0.5"]) == 2
    assert "run/broken-batch.safetensors" in capsys.readouterr().err
    assert [path.name for path in Path("run").iterdir()] == ["broken-batch.safetensors"]
    assert main([*TRAIN, "--out", "run", "--max_steps", "1"]) == 0
    assert not Path("run/broken-batch.safetensors").exists()


def test_a_bench_that_is_interrupted_says_how_it_goes_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Trainer.update

    def stop(self: Trainer, batch: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        update(self, batch)

    monkeypatch.setattr(Trainer, "update", stop)
    fields = [word.replace("--", "--set.") for word in shlex.split(FLAGS)]
    assert main(["bench", "digits/fgsm-rs", "--seeds", "[0]", "--out", "bench", *fields]) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "headstart: interrupted; the state is saved, and the same command goes on from it"
    assert Path("bench/runs/digits-fgsm-rs-0/checkpoints/last.pt").exists()


def test_help_shows_what_the_run_has(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main([*TRAIN, "--out", "run", "--max_steps", "1"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["resume", "run", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "passes over the training part (at least 1) (default: 2)" in told
    assert "--lr" not in told
    assert "With more epochs the schedule is that of the new length" in told


def test_a_batch_of_more_than_all_images_is_noted(capsys: Capture) -> None:
    assert main([*TRAIN, "--out", "run", "--batch_size", "2000", "--max_steps", "1"]) == 0
    assert "batch_size 2000 exceeds the 1247 training images; an epoch is one update" in capsys.readouterr().err


def test_one_device_of_several(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main([*TRAIN, "--out", "run", "--device", "cuda:2"]) == 2
    assert "device cuda:2 is not on this machine, which has cuda:0 to cuda:1" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*TRAIN, "--out", "run", "--device", "cuda:1"]) == 2
    assert "device cuda:1 is not available on this machine; use device cpu" in capsys.readouterr().err
    assert not Path("run").exists()
