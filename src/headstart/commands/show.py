"""``headstart train --show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import yaml

from headstart.fields import fraction_of
from headstart.recipes.recipe import Recipe

if TYPE_CHECKING:
    from headstart.training.estimate import Estimate


def show(recipe: Recipe) -> str:
    """The recipe as a file that can be trained from, with its cost in comments."""
    from headstart.training.estimate import estimate

    fields = {**asdict(recipe), "epsilon": fraction_of(float(recipe.epsilon))}
    cost = "\n".join(f"# {line}" for line in lines(recipe, estimate(recipe)))
    return f"{cost}\n{yaml.safe_dump(fields, sort_keys=False).strip()}"


def lines(recipe: Recipe, cost: Estimate) -> list[str]:
    """What the cost of a recipe is, in words."""
    passes, n = cost.passes, cost.measured
    validation = cost.validations * cost.validation_seconds
    where = "on the device" if cost.device.type == "cuda" else "in the process, its data among them"
    return [
        f"{recipe.data}: {cost.images:,} images to train on, {cost.validation_images:,} to choose the checkpoint by; "
        f"{recipe.model} with {cost.parameters:,} parameters",
        f"updates: {cost.updates:,} of {recipe.batch_size} images",
        f"passes per update: {passes.forwards / n:.3g} forwards, {passes.input_gradients / n:.3g} input gradients, "
        f"{passes.backwards / n:.3g} backwards",
        f"memory: {cost.memory / 2**30:.2f} GiB {where}",
        f"time: {in_words(cost.total_seconds)} on {cost.device}, {in_words(validation)} of it validation; "
        f"{cost.seconds:.3g} seconds an update, by {n} of them",
    ]


def in_words(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
