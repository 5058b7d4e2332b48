"""``headstart bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument(
        "recipes",
        type=str,
        nargs="+",
        help="recipes, or data sets for all methods on them, each trained with every seed",
    )
    sub.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="such as [0,1,2]")
    sub.add_argument("--suite", type=str, default="standard", help="headstart list suites")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder; records that exist are kept")
    sub.add_argument("--set", type=dict[str, Any], default={}, help="recipe fields for all, such as --set.epochs 5")
    sub.add_argument(
        "--vary",
        type=Optional[str],
        default=None,
        metavar="FIELD=[VALUE,...]",
        help="an ablation: each recipe as it is and with each value, such as method_args.generator_every=[1,20]",
    )


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.campaigns.bench import bench

    print(
        bench(
            options.recipes,
            options.seeds,
            options.suite,
            options.out,
            n=options.n,
            overrides=dict(options.set),
            vary=options.vary,
        )
    )
    return 0
