"""``headstart demo``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for demo.json and report.html")
    sub.add_argument("--seed", type=int, default=0, help="of weights, order and attacks")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.campaigns.demo import run_demo
    from headstart.runs.files import check_folder

    check_folder(options.out)
    run_demo(options.out, options.seed)
    return 0
