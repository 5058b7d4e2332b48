"""The Python face: train, evaluate, and a method in a loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet, from_python
from headstart.evaluation.evaluate import evaluate
from headstart.fields import pixel_fraction
from headstart.methods.registry import build_method
from headstart.recipes.reader import load_recipe
from headstart.training.train import TrainResult
from headstart.training.train import train as train_by_recipe

__all__ = ["LoopMethod", "evaluate", "load_method", "train"]


def train(
    recipe: str,
    out: Path | str,
    *,
    data: str | ImageSet | tuple[Tensor, Tensor] | Dataset[Any] | None = None,
    model: str | nn.Module | None = None,
    resume: bool = False,
    progress: bool = True,
    **fields: Any,
) -> TrainResult:
    """Train by a recipe, with any of its fields overridden.

    Args:
        recipe: DATASET/METHOD or a YAML file.
        out: folder of the run.
        data: name, ImageSet, images (N, C, H, W) in [0, 1] or uint8 with labels (N,), or a map-style ``Dataset`` of
            (image, label) without random transforms.
        model: name, or a network from images (B, C, H, W) in [0, 1] to logits (B, K). It is trained in place.
        fields: recipe fields, such as ``epochs=10`` or ``epsilon="4/255"``.

    Raises:
        UserError: see ``headstart.training.train.train``.
    """
    found = None if data is None or isinstance(data, str) else from_python(data)
    if data is not None:
        fields["data"] = data if found is None else found.name
    if isinstance(model, str):
        fields["model"] = model
    elif model is not None:
        fields["model"] = f"python:{type(model).__name__}"
    return train_by_recipe(
        load_recipe(recipe, **fields),
        out,
        resume=resume,
        data=found,
        model=model if isinstance(model, nn.Module) else None,
        progress=progress,
    )


class LoopMethod:
    """A method as a loss for a loop that is not ours: ``loss = method(model, x, y)``, then backward and a step.

    State of the method moves when the next loss is asked for, or by ``finish()`` after the last.
    """

    def __init__(self, name: str, info: TaskInfo, settings: dict[str, Any], bf16: bool) -> None:
        self.method = build_method(name, info, settings)
        self.info, self.bf16 = info, bf16
        self.update = 0
        self._target: Target | None = None
        self._pending: Step | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss to descend.

        Args:
            model: network from images in [0, 1] to logits (B, K); the same one in every call.
            x: images (B, C, H, W), fp32 in [0, 1].
            y: labels (B,), int64.
            index: row of each sample in the training set, (B,), for methods that remember samples.
        """
        self.finish()
        if self._target is None or self._target.module is not model:
            self._target = Target(model, bf16=self.bf16)
            self.method.to(x.device)
        batches = max(1, self.info.updates // self.info.epochs)
        clock = Clock(self.update, self.info.updates, self.update // batches, self.info.epochs, self.update % batches)
        self._pending = Step(x, y, self.info.threat, clock, index)
        self.update += 1
        loss: Tensor = self.method(self._target, self._pending)
        return loss

    def finish(self) -> None:
        """Move the method's state after the last update."""
        if self._pending is not None:
            self.method.observe(self._pending)
            self._pending = None


def load_method(
    name: str,
    *,
    epsilon: float | str,
    classes: int,
    image_shape: tuple[int, int, int],
    updates: int,
    epochs: int = 1,
    samples: int = 0,
    batch_size: int = 128,
    norm: str = "linf",
    bf16: bool = False,
    **settings: Any,
) -> LoopMethod:
    """A method by name for a loop of one's own.

    Args:
        epsilon: pixel fraction; may be written "8/255".
        updates, epochs: planned length of the training, which some methods' ramps and intervals follow.
        samples: size of the training set, for methods that remember samples.
        settings: of the method.

    Raises:
        UserError: unknown method or setting, or a bad threat model.
    """
    threat = ThreatModel(pixel_fraction(epsilon), norm)
    info = TaskInfo(classes, image_shape, threat, samples, batch_size, updates, epochs)
    return LoopMethod(name, info, settings, bf16)
