"""What a run says of itself: beside its weights, and of its cost."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from headstart.core import Clock
from headstart.models import normalization_of
from headstart.recipes.recipe import Recipe
from headstart.runs.environment import environment, not_deterministic
from headstart.training.learner import Learner
from headstart.training.meters import Stopwatch

log = logging.getLogger(__name__)

READING = ("image_size", "image_column", "label_column")  # what evaluation must know to read the same images


def origin_of(learner: Learner, classes: Sequence[str], channels: int, row: dict[str, Any]) -> dict[str, str]:
    """What makes a weights file usable on its own.

    Args:
        classes: names of the K classes.
        channels: channels of the image.
        row: of the epoch that the weights are of.
    """
    recipe = learner.recipe
    return {
        "model": recipe.model,
        "model_args": json.dumps({**recipe.model_args, **normalization_of(learner.network)}),
        "classes": json.dumps(classes),
        "channels": str(channels),
        "data": recipe.data,
        **{key: str(getattr(recipe, key)) for key in READING if getattr(recipe, key) is not None},
        "method": recipe.method,
        "norm": recipe.norm,
        "epsilon": repr(learner.threat.epsilon),
        "epoch": str(row["epoch"]),
        "validation": json.dumps(row.get("val", {})),
    }


def cost_of(learner: Learner, clock: Clock, stopwatch: Stopwatch) -> dict[str, float]:
    """Seconds of updates, of validation and of the guard; of this process's threads in all of them, and in updates
    alone; images per second, passes, peak memory on a GPU.
    """
    seconds = {kind: stopwatch.seconds.get(kind, 0.0) for kind in ("training", "validation", "guard")}
    images = clock.update / learner.method.replays * learner.recipe.batch_size
    device = stopwatch.device
    return {
        "seconds": seconds["training"],
        "validation_seconds": seconds["validation"],
        "guard_seconds": seconds["guard"],
        "processor_seconds": stopwatch.processor_seconds,
        "training_processor_seconds": stopwatch.processor.get("training", 0.0),
        "images_per_second": images / seconds["training"] if seconds["training"] else 0.0,
        **asdict(learner.target.passes),
        "updates": clock.update,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    }


def record_of(cost: dict[str, float], recipe: Recipe, device: torch.device, *, validated: bool) -> dict[str, Any]:
    """cost.json: the cost, whether validation chose the weights, what may differ next time, the machine."""
    if not validated:
        log.warning("no validation chose these weights: training ended before the first at the full epsilon")
    varying = not_deterministic(device, recipe.deterministic)
    return {**cost, "validated": validated, "not_deterministic": varying, "environment": environment(device)}
