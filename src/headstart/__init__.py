"""Fast adversarial training of image classifiers, and evaluations of their robustness that can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "DataError",
    "Diverged",
    "Evaluation",
    "Indexed",
    "LostProcess",
    "OutOfMemory",
    "Recipe",
    "SettingError",
    "StorageError",
    "Sweep",
    "TrainResult",
    "UserError",
    "WeightsError",
    "attack",
    "attacks",
    "evaluate",
    "export",
    "load_classifier",
    "load_method",
    "load_recipe",
    "pull",
    "push",
    "train",
]

if TYPE_CHECKING:
    from headstart import attacks
    from headstart.api import evaluate, load_method, train
    from headstart.data.indexed import Indexed
    from headstart.errors import (
        DataError,
        Diverged,
        LostProcess,
        OutOfMemory,
        SettingError,
        StorageError,
        UserError,
        WeightsError,
    )
    from headstart.evaluation.compare import Comparison
    from headstart.evaluation.examples import attack
    from headstart.evaluation.result import Evaluation
    from headstart.evaluation.sweep import Sweep
    from headstart.recipes.reader import load_recipe
    from headstart.recipes.recipe import Recipe
    from headstart.runs.classifier import load_classifier
    from headstart.runs.export import export
    from headstart.runs.hub import pull, push
    from headstart.training.train import TrainResult

_HOMES = {
    "headstart.api": ("evaluate", "load_method", "train"),
    "headstart.data.indexed": ("Indexed",),
    "headstart.errors": (
        "DataError",
        "Diverged",
        "LostProcess",
        "OutOfMemory",
        "SettingError",
        "StorageError",
        "UserError",
        "WeightsError",
    ),
    "headstart.evaluation.compare": ("Comparison",),
    "headstart.evaluation.examples": ("attack",),
    "headstart.evaluation.result": ("Evaluation",),
    "headstart.evaluation.sweep": ("Sweep",),
    "headstart.recipes.reader": ("load_recipe",),
    "headstart.recipes.recipe": ("Recipe",),
    "headstart.runs.classifier": ("load_classifier",),
    "headstart.runs.export": ("export",),
    "headstart.runs.hub": ("pull", "push"),
    "headstart.training.train": ("TrainResult",),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that the command line starts without torch."""
    if name == "attacks":
        return importlib.import_module("headstart.attacks")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module headstart has no attribute {name!r}")
