"""``headstart train``."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe

LOG = logging.getLogger(__name__)

GROUPS = {
    "data": (
        "data", "image_column", "label_column", "image_size", "pad", "samples", "val_size", "validation",
        "on_bad_image",
    ),
    "network": ("model", "model_args", "weights", "average", "average_warmup"),
    "method": ("method", "method_args", "norm", "epsilon", "epsilon_ramp", "ascent_batch_norm"),
    "schedule": (
        "epochs", "max_steps", "batch_size", "drop_last", "optimizer", "lr", "momentum", "weight_decay", "schedule",
        "schedule_by", "cycle_momentum", "peak", "milestones", "clip_gradient", "seed",
    ),
    "hardware": (
        "device", "devices", "num_nodes", "precision", "compile", "cuda_graphs", "accumulate", "sync_batch_norm",
        "workers", "deterministic",
    ),
    "safety": ("eval_every", "checkpoint_every", "keep", "on_collapse", "watch_every"),
}  # fmt: skip
"""How the help arranges the fields of a recipe."""

EPILOG = "headstart train RECIPE --help shows the defaults of that recipe."


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command: every field of a recipe is one."""
    sub.add_argument("recipe", type=str, help="DATASET/METHOD (headstart list recipes) or a YAML file")
    sub.add_argument("--out", type=Optional[Path], default=None, help="run folder; default runs/DATASET-METHOD-SEED")
    sub.add_argument("--resume", action="store_true", help="continue the run in the folder")
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
    from headstart.core import distributed
    from headstart.runs.launch import Interrupted
    from headstart.training.train import train

    recipe = load_recipe(options.recipe, **given(options, Recipe))
    try:
        result = train(recipe, options.out or default_out(options.recipe, recipe), resume=options.resume)
    except Interrupted:
        words = shlex.join(word for word in sys.argv[2:] if word != "--resume")
        LOG.info("interrupted; the state is saved. Continue with: headstart train %s --resume", words)
        return 130
    if distributed.rank() > 0:
        return 0
    if val := next((row["val"] for row in reversed(result.metrics) if "val" in row), None):
        print("validation: clean {clean:.1%}, FGSM {fgsm:.1%}, PGD-10 {pgd:.1%}".format(**val))
    print(f"{result.out}/model.safetensors; measure it with: headstart evaluate {result.out}")
    return 0


def default_out(name: str, recipe: Recipe) -> Path:
    """runs/DATASET-METHOD-SEED, or runs/FILE-METHOD-SEED in small letters for a recipe file."""
    path = Path(name)
    book = path.stem.lower() if path.suffix else name.split("/")[0]
    return Path("runs") / f"{book}-{recipe.method}-{recipe.seed}"
