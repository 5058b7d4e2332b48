"""Trainings by a recipe, and what attacks leave of their accuracy."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pieces.context import Context, Piece
from headstart.data import load
from headstart.errors import Interrupted
from headstart.evaluation.evaluate import evaluate
from headstart.recipes.reader import load_recipe
from headstart.training.train import train

SLICE = 1000  # test images of one piece of AutoAttack


@dataclass(frozen=True)
class Run:
    """A training by a recipe, 30 epochs unless said otherwise, and the pieces that evaluate it."""

    data: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """fgsm-sdi, fgsm-sdi-seed1, cifar100-liet, fgsm-rs-epsilon16, ..."""
        marks = [
            f"{key}{str(value).removesuffix('/255')}" for key, value in self.settings.items() if key != "eval_every"
        ]
        return "-".join([*([self.data] if self.data != "cifar10" else []), self.method, *marks])

    def folder(self, context: Context) -> Path:
        return context.out / "runs" / self.name

    def training(self, context: Context) -> dict[str, Any]:
        """Train, or go on training."""
        settings: dict[str, Any] = {"epochs": 30, "eval_every": 3} | self.settings
        if self.data in context.data:
            settings["data"] = context.data[self.data]
        if context.tiny:
            settings |= {"model": "small", "model_args": {}, "epochs": 1, "max_steps": 3, "precision": "fp32"}
        recipe = load_recipe(f"{self.data}/{self.method}", **settings)
        with stopped_after(context.minutes):
            result = train(recipe, self.folder(context), resume=self.folder(context).exists())
        return {"recipe": asdict(recipe), "cost": result.cost, "metrics": result.metrics}

    def evaluation(self, suite: str, images: slice) -> Piece:
        """Attack some of the test images; a call that is cut off leaves its finished attacks for the next."""

        def piece(context: Context) -> dict[str, Any]:
            images_now = slice(images.start, images.start + 8) if context.tiny else images
            name = f"{suite}-{images.start}"
            test = load(context.data.get(self.data, self.data), "test")
            fast = "tf32" if context.device.type == "cuda" else "fp32"
            result = evaluate(
                self.folder(context),
                suite="fgsm" if context.tiny else suite,
                data=test.take(images_now, f"{test.name}, test images from {images.start} on"),
                search_precision=fast,
                partial=self.folder(context) / f"{name}.partial.json",
            )
            return result.to_json(per_image=False)

        return piece

    def pieces(self, autoattack: int) -> dict[str, Piece]:
        """Training, PGD on all test images, AutoAttack on the first so many thousands, and their mean."""
        parts = {
            f"autoattack-{self.name}-{k + 1}": self.evaluation("standard", slice(k * SLICE, (k + 1) * SLICE))
            for k in range(autoattack)
        }
        return {
            f"train-{self.name}": self.training,
            **parts,
            f"autoattack-{self.name}": mean_of(list(parts)),
            f"pgd-{self.name}": self.evaluation("pgd", slice(0, None)),
        }


def mean_of(parts: list[str]) -> Piece:
    """The accuracies of several slices of a test set as those of all of them together."""

    def piece(context: Context) -> dict[str, Any]:
        records = [json.loads((context.out / f"{part}.json").read_text()) for part in parts]
        n = sum(record["n"] for record in records)

        def mean(value: Callable[[dict[str, Any]], float]) -> float:
            return sum(record["n"] * value(record) for record in records) / n

        return {
            "suite": records[0]["suite"],
            "n": n,
            "epsilon": records[0]["epsilon"],
            "clean": mean(lambda record: record["clean"]),
            "robust": mean(lambda record: record["robust"]),
            "attacks": {
                name: mean(lambda record, name=name: record["attacks"][name]) for name in records[0]["attacks"]
            },
            "warnings": sorted({warning for record in records for warning in record["warnings"]}),
            "seconds": sum(record["seconds"] for record in records),
        }

    return piece


@contextmanager
def stopped_after(minutes: float) -> Iterator[None]:
    """Inside, a training is told to save its state and stop once the time is up, as by SIGTERM."""

    def stop(number: int, frame: Any) -> None:  # before training listens, and after
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
