"""The folder of a run: the name of every file in it. Knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS, CONFIG, EVALUATION = "model.safetensors", "config.yaml", "evaluation.json"
EVERY_EPOCH = "epoch-*.pt"
SERVICES = ("wandb", "mlflow")
"""Services that track runs."""


def partial_of(record: Path) -> Path:
    """Where the finished attacks of an evaluation are kept until its record is written."""
    return record.with_suffix(".partial.safetensors")


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are, whether they exist or not.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / CONFIG

    @property
    def config_part(self) -> Path:
        """The recipe while it is being written."""
        return self.path / f"{CONFIG}.part"

    @property
    def metrics(self) -> Path:
        """One JSON object per line: a row for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def csv(self) -> Path:
        """Where metrics.csv is."""
        return self.path / "csv"

    def tracked(self, service: str) -> Path:
        """The id of this run with wandb or mlflow."""
        return self.path / f"{service}-run.txt"

    @property
    def cost(self) -> Path:
        """Seconds, passes and memory of the training."""
        return self.path / "cost.json"

    @property
    def weights(self) -> Path:
        """The weights that validation prefers."""
        return self.path / WEIGHTS

    @property
    def last_weights(self) -> Path:
        """The weights that training ended with."""
        return self.path / "model-last.safetensors"

    @property
    def broken_batch(self) -> Path:
        """The batch whose loss was not finite first."""
        return self.path / "broken-batch.safetensors"

    @property
    def evaluation(self) -> Path:
        """The record of ``headstart evaluate``."""
        return self.path / EVALUATION

    @property
    def bound(self) -> Path:
        """The record of ``headstart evaluate --budget``."""
        return self.path / "bound.json"

    @property
    def sweep(self) -> Path:
        """The record of ``headstart sweep``."""
        return self.path / "sweep.json"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest training state."""
        return self.checkpoints / "last.pt"

    @property
    def previous(self) -> Path:
        """The training state before the newest."""
        return self.checkpoints / "previous.pt"

    @property
    def best(self) -> Path:
        """The weights that validation prefers so far."""
        return self.checkpoints / "best.safetensors"

    def of_epoch(self, epoch: int) -> Path:
        """The training state at the end of an epoch."""
        return self.checkpoints / f"epoch-{epoch:04d}.pt"
