"""``headstart pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("repo", type=str, help="OWNER/NAME on the Hugging Face hub")
    sub.add_argument("--out", type=Optional[Path], default=None, help="new folder; default runs/NAME")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.runs.hub import pull

    out = pull(options.repo, options.out or Path("runs") / options.repo.rpartition("/")[2])
    print(f"{out}; measure it with: headstart evaluate {out}")
    return 0
