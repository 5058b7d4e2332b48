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
        nargs="*",
        help="recipes, or data sets for all methods on them, each trained with every seed; none makes the tables anew "
        "from the records in --out",
    )
    sub.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="such as [0,1,2]")
    sub.add_argument("--suite", type=str, default="standard", help="headstart list suites")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--last", action="store_true", help="evaluate the weights that training ended with, too")
    sub.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder; records that exist are kept")
    sub.add_argument(
        "--time",
        action="store_true",
        help="attack every epoch's checkpoint too, and draw robustness against seconds of training",
    )
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
    from headstart.runs.files import check_folder

    check_folder(options.out)
    how = {"n": options.n, "last": options.last, "time": options.time, "vary": options.vary}
    print(bench(options.recipes or [], options.seeds, options.suite, options.out, overrides=dict(options.set), **how))
    return 0
