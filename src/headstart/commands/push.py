"""``headstart push``."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

LOG = logging.getLogger(__name__)


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("run", type=Path, help="folder of a finished run")
    sub.add_argument("repo", type=str, help="OWNER/NAME on the Hugging Face hub, made if it does not exist")
    sub.add_argument("--private", action="store_true", help="make it for you alone")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.runs.hub import EVALUATION, push

    print(push(options.run, options.repo, private=options.private))
    if not (options.run / EVALUATION).is_file():
        LOG.info("the card has no numbers yet: headstart evaluate %s, then push again", options.run)
    return 0
