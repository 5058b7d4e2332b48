"""Where the rows of a run go beside metrics.jsonl: TensorBoard, a CSV file, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from headstart.errors import MissingPackage, StorageError, extra
from headstart.recipes.recipe import Recipe
from headstart.runs.files import write_text
from headstart.runs.folder import RunFolder

_log = logging.getLogger(__name__)

PROJECT = "headstart"
"""Project of Weights & Biases and experiment of MLflow, unless their environment variables name another."""
EXTRAS = {"tensorboard": "logging", "wandb": "wandb", "mlflow": "mlflow"}
"""What has to be installed for a log, and the extra that brings it."""


class TrackedRun(Logger):
    """A run of a tracking service as a logger of Fabric. Its id is kept in the folder, for when the run goes on.

    Args:
        folder: of the run.
    """

    service: str

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run: Any = None

    @property
    def name(self) -> str:
        """That of the folder."""
        return self.folder.path.resolve().name

    @property
    def version(self) -> str | None:
        """The id of the service's run; None before the first."""
        kept = self.folder.tracked(self.service)
        return kept.read_text().strip() if kept.exists() else None

    def keep(self, identity: str) -> None:
        """Remember the id of the service's run."""
        write_text(self.folder.tracked(self.service), identity + "\n")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Start the service's run with these settings, or go on with it.

        Raises:
            StorageError: the service cannot be reached, or wants something first.
        """
        try:
            self.start(params)
        except Exception as error:  # each service has its own kinds
            reason = " ".join(str(error).split())
            raise StorageError(
                f"{self.service} did not start a run ({reason}); set what it asks for, or train with another log"
            ) from error

    @abstractmethod
    def start(self, params: dict[str, Any]) -> None:
        """Start, or go on."""


class WandbRun(TrackedRun):
    """Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and its other variables hold."""

    service = "wandb"

    def start(self, params: dict[str, Any]) -> None:
        """With the settings as config, and updates as the axis: its own step counts calls, and never goes back."""
        import wandb

        project, folder = os.environ.get("WANDB_PROJECT", PROJECT), str(self.folder.path)
        self.run = wandb.init(project=project, name=self.name, dir=folder, id=self.version, resume="allow")
        self.keep(self.run.id)
        self.run.config.update(params, allow_val_change=True)
        self.run.define_metric("update")
        self.run.define_metric("*", step_metric="update")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """A point of every metric at an update."""
        self.run.log({**metrics, "update": step})

    def finalize(self, status: str) -> None:
        """End the run."""
        if self.run is not None:
            self.run.finish(exit_code=0 if status == "success" else 1)


class MlflowRun(TrackedRun):
    """MLflow, where MLFLOW_TRACKING_URI says, in the experiment of MLFLOW_EXPERIMENT_NAME."""

    service = "mlflow"

    def start(self, params: dict[str, Any]) -> None:
        """With the settings as parameters, which can be set once alone."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        if self.version:
            client.update_run(self.version, status="RUNNING")
        else:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = client.get_experiment_by_name(title)
            experiment = found.experiment_id if found else client.create_experiment(title)
            self.keep(client.create_run(experiment, run_name=self.name).info.run_id)
            for key, value in params.items():
                client.log_param(self.version, key, value)
        self.run = client

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """A point of every metric at an update."""
        for key, value in metrics.items():
            self.run.log_metric(self.version, key, value, step=step)

    def finalize(self, status: str) -> None:
        """End the run."""
        if self.run is not None:
            self.run.set_terminated(self.version, "FINISHED" if status == "success" else "FAILED")


class CsvFile(CSVLogger):
    """A table of all rows; Fabric's own takes no settings, and warns of the table that it replaces."""

    def log_hyperparams(self, params: Any) -> None:
        """Begin the table anew; the settings are in config.yaml."""
        shutil.rmtree(self.log_dir, ignore_errors=True)


class Journal:
    """What the loggers of a run are told. Only the first process speaks.

    Args:
        fabric: has the loggers.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.loggers = fabric.loggers if fabric.is_global_zero else []

    def start(self, recipe: Recipe, rows: Sequence[dict[str, Any]]) -> None:
        """The recipe as hyperparameters.

        Args:
            rows: those from before, of a run that goes on; tables begin with them, the others have them.

        Raises:
            StorageError: a service does not start a run.
        """
        for logger in self.loggers:
            logger.log_hyperparams(_flat(asdict(recipe), "."))
            if isinstance(logger, CsvFile):
                for row in rows:
                    logger.log_metrics(_numbers(row), row["update"])

    def add(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl; that a service cannot be reached does not end a training."""
        for logger in self.loggers:
            try:
                logger.log_metrics(_numbers(row), row["update"])
            except Exception as error:
                _log.warning("%s: %s; metrics.jsonl has the row", type(logger).__name__, " ".join(str(error).split()))

    def close(self, status: str) -> None:
        """End the log: success, or failed."""
        for logger in self.loggers:
            try:
                logger.finalize(status)
            except Exception as error:
                _log.warning("%s: %s", type(logger).__name__, " ".join(str(error).split()))


def make_loggers(recipe: Recipe, folder: RunFolder) -> list[Logger]:
    """The loggers that a recipe asks for; none starts before it is told something.

    Raises:
        MissingPackage: what it asks for is not installed.
    """
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(folder.path, name="", version=folder.tensorboard.name),
        "csv": lambda: CsvFile(folder.path, name="", version=folder.csv.name, flush_logs_every_n_steps=1),
        "wandb": lambda: WandbRun(folder),
        "mlflow": lambda: MlflowRun(folder),
    }
    log = "tensorboard" if recipe.log == "auto" else recipe.log
    if log in EXTRAS:
        try:
            with extra(EXTRAS[log]):
                importlib.import_module(log)
        except MissingPackage as error:
            if recipe.log != "auto":
                raise
            _log.info("no log for TensorBoard: %s", error)
            return []
    return [makers[log]()] if log in makers else []


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row can be drawn."""
    return {key: value for key, value in _flat(row, "/").items() if isinstance(value, int | float)}


def _flat(nested: dict[str, Any], joint: str) -> dict[str, Any]:
    """Dictionaries inside with their keys joined to their own; lists as text."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{key}{joint}{inner}": v for inner, v in _flat(value, joint).items()}
        else:
            flat[key] = str(value) if isinstance(value, list) else value
    return flat
