"""The Python face: train, evaluate, and a method in a loop of one's own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn
from torch.utils.data import Dataset

from headstart.core import TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet, from_python
from headstart.evaluation.bound import Bound, bound
from headstart.evaluation.evaluate import evaluate as evaluate_by_settings
from headstart.evaluation.result import Evaluation
from headstart.fields import pixel_fraction
from headstart.recipes.reader import load_recipe
from headstart.runs.log import show_messages
from headstart.training.own_loop import LoopMethod
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
        model: name, or a network from images (B, C, H, W) in [0, 1] to logits (B, K). It is trained in place;
            layers that its owner has put into evaluation mode stay in it.
        progress: show how far it is, and messages, on stderr.
        fields: recipe fields, such as ``epochs=10`` or ``epsilon="4/255"``.

    Raises:
        UserError: see ``headstart.training.train.train``.
    """
    if progress:
        show_messages()
    found = None if data is None or isinstance(data, str) else from_python(data)
    if data is not None:
        fields["data"] = data if found is None else found.name
    if model is not None:
        fields["model"] = model if isinstance(model, str) else f"python:{type(model).__name__}"
    return train_by_recipe(
        load_recipe(recipe, **fields),
        out,
        resume=resume,
        data=found,
        model=model if isinstance(model, nn.Module) else None,
        progress=progress,
    )


@overload
def evaluate(
    source: str | Path | nn.Module, *, budget: None = None, progress: bool = True, **arguments: Any
) -> Evaluation: ...


@overload
def evaluate(
    source: str | Path | nn.Module, *, budget: float | str, progress: bool = True, **arguments: Any
) -> Bound: ...


@functools.wraps(evaluate_by_settings)
def evaluate(
    source: str | Path | nn.Module, *, budget: float | str | None = None, progress: bool = True, **arguments: Any
) -> Evaluation | Bound:
    """As in ``headstart.evaluation.evaluate``, with its messages on stderr where ``progress`` is asked for.

    With a ``budget`` such as "10m", as in ``headstart.evaluation.bound``: an upper bound, and no suite.
    """
    if progress:
        show_messages()
    if budget is not None:
        return bound(source, budget=budget, progress=progress, **arguments)
    return evaluate_by_settings(source, progress=progress, **arguments)


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
    """A method by name for a loop of one's own. Its ``state_dict`` lets an interrupted loop go on exactly.

    Args:
        epsilon: pixel fraction; may be written "8/255".
        updates, epochs: planned length of the training, which some methods' ramps and intervals follow.
        samples: size of the training set, for methods that remember samples.
        settings: of the method.

    Raises:
        SettingError: unknown method or setting, or a bad threat model.
    """
    threat = ThreatModel(pixel_fraction(epsilon), norm)
    info = TaskInfo(classes, image_shape, threat, samples, batch_size, updates, epochs)
    return LoopMethod(name, info, settings, bf16)
