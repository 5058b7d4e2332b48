"""``headstart train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("recipe", type=str, help="DATASET/METHOD (headstart list recipes) or a YAML file")
    sub.add_argument("--out", type=Optional[Path], default=None, help="run folder; default runs/DATASET-METHOD-SEED")
    sub.add_argument("--resume", action="store_true", help="continue the run in the folder")
    add_fields(sub, Recipe)


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.core import distributed
    from headstart.runs.launch import Interrupted
    from headstart.training.train import train

    recipe = load_recipe(options.recipe, **given(options, Recipe))
    out = options.out or Path("runs") / f"{Path(options.recipe).stem}-{recipe.method}-{recipe.seed}".lower()
    if options.out is None and "/" in options.recipe and not Path(options.recipe).suffix:
        out = Path("runs") / f"{options.recipe.split('/')[0]}-{recipe.method}-{recipe.seed}"
    try:
        result = train(recipe, out, resume=options.resume)
    except Interrupted:
        flags = " ".join(shlex.quote(a) for a in sys.argv[2:] if a != "--resume")
        if distributed.rank() == 0:
            print(f"interrupted; the state is saved. Continue with: headstart train {flags} --resume", file=sys.stderr)
        return 130
    if distributed.rank() > 0:
        return 0
    val = next((row["val"] for row in reversed(result.metrics) if "val" in row), None)
    if val:
        print("validation: clean {clean:.1%}, FGSM {fgsm:.1%}, PGD-10 {pgd:.1%}".format(**val))
    print(f"{result.out}/model.safetensors; measure it with: headstart evaluate {result.out}")
    return 0
