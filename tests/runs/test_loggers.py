"""The logs beside metrics.jsonl: the same rows in each, and one log for a run that was interrupted.

Weights & Biases and MLflow are played by stand-ins with the calls that their documentation gives.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headstart.data import ImageSet
from headstart.errors import MissingPackage, StorageError
from headstart.runs.folder import RunFolder
from headstart.runs.loggers import EXTRAS, make_loggers
from headstart.training.train import train
from tests.training.runs import rows, tiny

Calls = list[tuple[Any, ...]]


class Wandb(ModuleType):
    """wandb.init(...) -> Run with id, config.update, define_metric, log and finish."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: Calls = []

    def init(self, **how: Any) -> SimpleNamespace:
        self.calls.append(("init", how))
        return SimpleNamespace(
            id=how["id"] or "abc123",
            config=SimpleNamespace(update=lambda *a, **k: self.calls.append(("config", *a, k))),
            define_metric=lambda *a, **k: self.calls.append(("define", *a, k)),
            log=lambda point: self.calls.append(("log", point)),
            finish=lambda exit_code: self.calls.append(("finish", exit_code)),
        )


class Mlflow(ModuleType):
    """mlflow.tracking.MlflowClient: experiments, runs, parameters that are set once, metrics with a step."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.params: dict[str, Any] = {}
        self.metrics: Calls = []
        self.status: list[str] = []
        self.tracking = self
        self.fails = False

    def MlflowClient(self) -> Mlflow:
        return self

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "headstart"

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        assert (experiment, run_name) == ("7", "run")
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run: str, status: str) -> None:
        self.status.append(status)

    def log_param(self, run: str, key: str, value: Any) -> None:
        assert key not in self.params, "MLflow refuses a second value"
        self.params[key] = value

    def log_metric(self, run: str, key: str, value: float, step: int) -> None:
        if self.fails:
            raise ConnectionError("the server\nis gone")
        self.metrics.append((run, key, value, step))

    def set_terminated(self, run: str, status: str) -> None:
        self.status.append(status)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    module = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", module)
    return module


def in_two_goes(out: Path, digits: ImageSet, log: str) -> list[dict[str, Any]]:
    """A run that stops after its first epoch and goes on; its rows."""
    train(tiny(epochs=2, max_steps=4, log=log), out, data=digits, progress=False)
    train(tiny(epochs=2, log=log), out, data=digits, progress=False, resume=True)
    assert len(rows(out)) == 2
    return rows(out)


def test_csv_has_every_row_once(tmp_path: Path, digits: ImageSet) -> None:
    found = in_two_goes(tmp_path / "run", digits, "csv")
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in table] == [row["update"] for row in found]
    for key in ("loss", "lr", "train_accuracy", "epsilon"):
        assert [float(row[key]) for row in table] == [row[key] for row in found]
    assert [float(row["val/pgd"]) for row in table] == [row["val"]["pgd"] for row in found]


def test_tensorboard_has_rows_and_recipe(tmp_path: Path, digits: ImageSet) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = in_two_goes(tmp_path / "run", digits, "auto")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [
        (r["update"], r["loss"]) for r in found
    ]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, digits: ImageSet, wandb: Wandb) -> None:
    found = in_two_goes(tmp_path / "run", digits, "wandb")
    starts = [call[1] for call in wandb.calls if call[0] == "init"]
    assert [(how["project"], how["name"], how["id"], how["resume"]) for how in starts] == [
        ("headstart", "run", None, "allow"),
        ("headstart", "run", "abc123", "allow"),
    ]
    assert all(how["dir"] == str(tmp_path / "run") for how in starts)
    settings = next(call for call in wandb.calls if call[0] == "config")
    assert (settings[1]["method"], settings[1]["model_args.widths"]) == ("fgsm-rs", "[4, 8]")
    points = [call[1] for call in wandb.calls if call[0] == "log"]
    assert [(p["update"], p["loss"], p["val/pgd"]) for p in points] == [
        (row["update"], row["loss"], row["val"]["pgd"]) for row in found
    ]
    assert [call[1] for call in wandb.calls if call[0] == "finish"] == [0, 0]


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, digits: ImageSet, mlflow: Mlflow) -> None:
    found = in_two_goes(tmp_path / "run", digits, "mlflow")
    assert mlflow.params["batch_size"] == 64
    assert [m for m in mlflow.metrics if m[1] == "loss"] == [
        ("r1", "loss", row["loss"], row["update"]) for row in found
    ]
    assert mlflow.status == ["FINISHED", "RUNNING", "FINISHED"]


def test_a_server_that_goes_away_ends_no_training(
    tmp_path: Path, digits: ImageSet, mlflow: Mlflow, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.fails = True
    train(tiny(epochs=1, log="mlflow"), tmp_path / "run", data=digits, progress=False)
    assert len(rows(tmp_path / "run")) == 1
    assert "MlflowRun: the server is gone; metrics.jsonl has the row" in caplog.messages


def test_a_service_that_refuses_ends_the_start(
    tmp_path: Path, digits: ImageSet, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**how: Any) -> None:
        raise RuntimeError("no API key\nlog in first")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(StorageError, match=r"wandb did not start a run \(no API key log in first\)"):
        train(tiny(log="wandb"), tmp_path / "run", data=digits, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("log", EXTRAS)
def test_an_absent_package_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    monkeypatch.setitem(sys.modules, log, None)  # what Python then says is that it is not there
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(MissingPackage, match=rf'{log} is not installed: pip install "headstart\[{EXTRAS[log]}\]"'):
        make_loggers(tiny(log=log), folder)
    assert not folder.path.exists()


def test_without_tensorboard_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    caplog.set_level("INFO")
    assert make_loggers(tiny(), RunFolder(tmp_path)) == []
    assert "no log for TensorBoard" in caplog.text
    assert make_loggers(tiny(log="none"), RunFolder(tmp_path)) == []
