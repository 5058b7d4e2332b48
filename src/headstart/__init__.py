"""Fast adversarial training of image classifiers, and evaluations of their robustness that can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recipe", "UserError", "evaluate", "load_classifier", "load_method", "load_recipe", "pull", "push", "train"]

if TYPE_CHECKING:
    from headstart.api import evaluate, load_method, train
    from headstart.errors import UserError
    from headstart.recipes.reader import load_recipe
    from headstart.recipes.recipe import Recipe
    from headstart.runs.classifier import load_classifier
    from headstart.runs.hub import pull, push

_HOMES = {
    "Recipe": "headstart.recipes.recipe",
    "UserError": "headstart.errors",
    "evaluate": "headstart.api",
    "load_classifier": "headstart.runs.classifier",
    "load_method": "headstart.api",
    "load_recipe": "headstart.recipes.recipe",
    "pull": "headstart.runs.hub",
    "push": "headstart.runs.hub",
    "train": "headstart.api",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module headstart has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
