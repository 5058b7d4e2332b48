"""``headstart train``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any, Optional, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("recipe", type=str, help="DATASET/METHOD (headstart list recipes) or a YAML file")
    sub.add_argument("--out", type=Optional[Path], default=None, help="run folder; default runs/DATASET-METHOD-SEED")
    sub.add_argument("--resume", action="store_true", help="continue the run in the folder")
    hints = get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        # None means: as the recipe says.
        sub.add_argument(f"--{field.name}", type=Optional[hints[field.name]], default=None, help=HELP[field.name])


def _field_help() -> dict[str, str]:
    """One line per recipe field, from the docstring of Recipe."""
    text = (Recipe.__doc__ or "").split("Attributes:")[1]
    lines = [line.strip() for line in text.splitlines() if ": " in line]
    return {name: summary for name, _, summary in (line.partition(": ") for line in lines)}


HELP = _field_help()


def _overrides(options: Namespace) -> dict[str, Any]:
    values = options.as_dict()
    return {k: values[k] for k in Recipe.__dataclass_fields__ if values.get(k) is not None}


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.core import distributed
    from headstart.runs.launch import Interrupted
    from headstart.training.train import train

    recipe = load_recipe(options.recipe, **_overrides(options))
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
