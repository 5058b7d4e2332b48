"""``headstart resume``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.commands.train import train_into
from headstart.errors import StorageError
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import RESUMABLE, Recipe
from headstart.runs.folder import RunFolder

EPILOG = (
    "With more epochs the schedule is that of the new length: the rate goes on where a run of so many epochs has it by "
    "then, which is higher than where a finished run has ended, and follows that schedule to its end."
)


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command: what may change in a run."""
    sub.add_argument("run", type=Path, help="folder of the run, whose config.yaml has the recipe")
    add_fields(sub, Recipe, only=("epochs", *RESUMABLE))


def values_for_help(options: Namespace) -> dict[str, Any]:
    """The values that the run has."""
    run = options.get("run")
    return asdict(_recipe(Path(run))) if run is not None else {}


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    return train_into(options.run, _recipe(options.run, **given(options, Recipe)), resume=True, longer=True)


def _recipe(run: Path, **changes: Any) -> Recipe:
    """That of a run, changed.

    Raises:
        StorageError: no run.
    """
    config = RunFolder(run).config
    if not config.is_file():
        raise StorageError(f"{run} is not a run: it has no {config.name}; name a folder that headstart train wrote")
    return load_recipe(str(config), **changes)
