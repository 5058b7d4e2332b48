"""Trainings by a recipe, and what attacks leave of their accuracy."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks import evaluation
from benchmarks.pieces.context import Context, Piece, Unfinished
from headstart.data import ImageSet, load
from headstart.errors import Interrupted
from headstart.evaluation.evaluate import evaluate
from headstart.recipes.reader import load_recipe
from headstart.runs.files import write_text
from headstart.runs.folder import RunFolder
from headstart.training.train import train

SLICE = 1000  # test images that AutoAttack takes at a time: the unit in which an evaluation is cut off
Weights = Literal["best", "last"]


@dataclass(frozen=True)
class Run:
    """A training by a recipe, and the pieces that evaluate it.

    Attributes:
        data: the set, or a book of recipes on it such as cifar10-paper.
        method: the method.
        settings: of the recipe, where they are not the book's.
        book: the book, where it is not called like the set.
    """

    data: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    book: str | None = None

    @property
    def name(self) -> str:
        """cifar10-fgsm-sdi, cifar10-fgsm-sdi-seed1, cifar10-paper-fgsm-rs, cifar10-liet-epsilon16, ..."""
        marks = [
            f"{key}{str(value).removesuffix('/255')}" for key, value in self.settings.items() if key != "eval_every"
        ]
        return "-".join([self.data, self.method, *marks])

    def folder(self, context: Context) -> RunFolder:
        return RunFolder(context.out / "runs" / self.name)

    def images(self, context: Context) -> str:
        """Where the set is."""
        name = self.data.removesuffix("-paper").removesuffix("-fast-gpu")
        return context.data.get(name, name)

    def training(self, context: Context) -> dict[str, Any]:
        """Train, or go on training."""
        settings: dict[str, Any] = {"eval_every": 3, "data": self.images(context)} | self.settings
        if context.device.type == "cuda":
            settings["cuda_graphs"] = True
        if context.tiny:
            settings |= {"model": "small", "model_args": {}, "epochs": 1, "max_steps": 3, "precision": "fp32"}
        recipe = load_recipe(f"{self.book or self.data}/{self.method}", **settings)
        folder = self.folder(context).path
        with stopped_after(context.seconds_left()):
            result = train(recipe, folder, resume=folder.exists())
        return {"recipe": asdict(recipe), "cost": result.cost, "metrics": result.metrics}

    def autoattack(self, weights: Weights) -> Piece:
        """AutoAttack on the whole test set, a slice at a time."""

        def piece(context: Context) -> dict[str, Any]:
            test, attack = self._test(context), self.attacked("standard", weights)
            parts: list[dict[str, Any]] = []
            for start in range(0, len(test), SLICE):
                path = self.folder(context).path / f"autoattack-{weights}-{start}.json"
                if not path.exists():
                    if context.seconds_left() <= 0:
                        raise Unfinished(mean_of(parts) if parts else None)
                    write_text(path, json.dumps(attack(context, slice(start, start + SLICE))) + "\n")
                parts.append(json.loads(path.read_text()))
            return mean_of(parts)

        return piece

    def attacked(self, suite: str, weights: Weights = "best") -> Callable[..., dict[str, Any]]:
        """Attack some of the test images, or all; a call that is cut off leaves its finished attacks for the next."""

        def piece(context: Context, images: slice = slice(0, None)) -> dict[str, Any]:
            folder, test = self.folder(context), self._test(context)
            result = evaluate(
                folder.weights if weights == "best" else folder.last_weights,
                suite="fgsm" if context.tiny else suite,
                data=test.take(images, f"{test.name}, test images from {images.start} on"),
                partial=folder.path / f"{suite}-{weights}-{images.start}.partial.json",
            )
            return result.to_json(per_image=False)

        return piece

    def beside_plain(self, context: Context) -> dict[str, Any]:
        """AutoAttack on the first test images, here and by plain ``pyautoattack``: seconds and verdicts."""
        n = 4 if context.tiny else evaluation.SLICE
        (found,) = evaluation.compete(self.folder(context).path, self.images(context), n, ["plain", "auto"])
        return {"batch_size": evaluation.BATCH, "seed": evaluation.SEED, **found}

    def _test(self, context: Context) -> ImageSet:
        test = load(self.images(context), "test")
        return test.take(slice(0, 8), test.name) if context.tiny else test


def mean_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The accuracies of several slices of a test set as those of all of them together."""
    n = sum(record["n"] for record in records)

    def mean(value: Callable[[dict[str, Any]], float]) -> float:
        return sum(record["n"] * value(record) for record in records) / n

    return {
        "suite": records[0]["suite"],
        "n": n,
        "epsilon": records[0]["epsilon"],
        "clean": mean(lambda record: record["clean"]),
        "robust": mean(lambda record: record["robust"]),
        "attacks": {name: mean(lambda record, name=name: record["attacks"][name]) for name in records[0]["attacks"]},
        "warnings": sorted({warning for record in records for warning in record["warnings"]}),
        "seconds": sum(record["seconds"] for record in records),
    }


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Inside, a training is told to save its state and stop once the time is up, as by SIGTERM."""

    def stop(number: int, frame: Any) -> None:  # before training listens, and after
        raise Interrupted

    if math.isinf(seconds):
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(max(seconds, 0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
