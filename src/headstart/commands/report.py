"""``headstart report``."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

LOG = logging.getLogger(__name__)


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("runs", type=Path, nargs="+", help="run folders")
    sub.add_argument("--out", type=Path, default=Path("report.html"), help="the page")
    sub.add_argument("--published", action="store_true", help="draw each run beside published numbers of its kind")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.report import load_run, run_page
    from headstart.runs.files import check_folder, write_text

    check_folder(options.out.parent)
    if not options.out.parent.exists():
        LOG.info("making the folder %s", options.out.parent)
    runs, folder = [load_run(run) for run in options.runs], options.out.with_name(f"{options.out.stem}-figures")
    write_text(options.out, run_page(runs, options.published, folder))
    print(options.out)
    if folder.exists():
        print(f"every figure as SVG and PDF: {folder}")
    return 0
