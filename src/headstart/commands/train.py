"""``headstart train``."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.errors import Interrupted
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe

LOG = logging.getLogger(__name__)

GROUPS = {
    "data": (
        "data", "image_column", "label_column", "image_size", "pad", "samples", "val_size", "validation",
        "on_bad_image",
    ),
    "network": ("model", "model_args", "weights", "freeze", "freeze_batch_norm", "average", "average_warmup"),
    "method": ("method", "method_args", "norm", "epsilon", "epsilon_ramp", "ascent_batch_norm", "ascent_dropout"),
    "schedule": (
        "epochs", "max_steps", "batch_size", "drop_last", "optimizer", "lr", "layer_decay", "momentum", "weight_decay",
        "schedule", "schedule_by", "cycle_momentum", "peak", "milestones", "clip_gradient", "seed",
    ),
    "hardware": (
        "device", "devices", "num_nodes", "precision", "compile", "cuda_graphs", "accumulate", "checkpoint_activations",
        "sync_batch_norm", "workers", "deterministic",
    ),
    "safety": ("eval_every", "checkpoint_every", "keep", "on_collapse", "watch_every", "curve_every", "log"),
}  # fmt: skip
"""How the help arranges the fields of a recipe."""

EPILOG = "headstart train RECIPE --help shows the defaults of that recipe."


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command: every field of a recipe is one."""
    sub.add_argument("recipe", type=str, help="DATASET/METHOD (headstart list recipes) or a YAML file")
    sub.add_argument("--out", type=Optional[Path], default=None, help="run folder; default runs/DATASET-METHOD-SEED")
    sub.add_argument("--resume", action="store_true", help="continue the run in the folder")
    sub.add_argument("--show", action="store_true", help="print the recipe in full and what it will cost, and end")
    add_fields(sub, Recipe, groups=GROUPS)


def values_for_help(options: Namespace) -> dict[str, Any]:
    """The values of the recipe that was named, with all settings of its method."""
    name = options.get("recipe")
    if name is None:
        return {}
    from headstart.methods.registry import methods

    recipe = load_recipe(name)
    settings = methods()[recipe.method].settings if recipe.method in methods() else {}
    return {**asdict(recipe), "method_args": settings | recipe.method_args}


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    recipe = load_recipe(options.recipe, **given(options, Recipe))
    if options.show:
        from headstart.commands.show import show

        print(show(recipe))
        return 0
    return train_into(options.out or default_out(options.recipe, recipe), recipe, resume=options.resume)


def train_into(out: Path, recipe: Recipe, *, resume: bool, longer: bool = False) -> int:
    """Train, or go on, and say what comes next; the exit code."""
    from headstart.core import distributed
    from headstart.runs.store import RunStore
    from headstart.training.train import train

    quoted, store = shlex.quote(str(out)), RunStore(out)
    if resume and store.config.exists() and store.complete(recipe):
        print(_finished(quoted, recipe))
        return 0
    try:
        result = train(recipe, out, resume=resume, longer=longer)
    except Interrupted:
        LOG.info("interrupted; the state is saved. Continue with: headstart resume %s", quoted)
        return 130
    if distributed.rank() > 0:
        return 0
    if not store.best.exists():
        print("validation: none at the full epsilon; these are the weights that training ended with, not chosen ones")
    elif val := next((row["val"] for row in reversed(result.metrics) if "val" in row), None):
        print("validation: clean {clean:.1%}, FGSM {fgsm:.1%}, PGD-10 {pgd:.1%}".format(**val))
    print(f"{result.out}/model.safetensors; measure it with: headstart evaluate {quoted}")
    return 0


def _finished(run: str, recipe: Recipe) -> str:
    """What a run is told that has nothing left to train."""
    state, more = "is finished", f"--epochs N (it has {recipe.epochs})"
    if recipe.max_steps is not None:
        state, more = f"has reached max_steps {recipe.max_steps}", "--max_steps null"
    return f"{run} {state}; measure it with: headstart evaluate {run}\nto train on: headstart resume {run} {more}"


def default_out(name: str, recipe: Recipe) -> Path:
    """runs/DATASET-METHOD-SEED, or runs/FILE-METHOD-SEED in small letters for a recipe file."""
    path = Path(name)
    book = path.stem.lower() if path.suffix else name.split("/")[0]
    return Path("runs") / f"{book}-{recipe.method}-{recipe.seed}"
