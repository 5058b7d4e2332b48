"""``headstart sweep``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.subject import add_subject


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    add_subject(sub)
    sub.add_argument("--suite", type=str, default="pgd", help="headstart list suites")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default sweep.json in the run")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.evaluation.sweep import sweep
    from headstart.runs.files import write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("source", "out")}
    record = sweep(options.source, **settings).to_json()
    out = options.out
    if out is None and Path(options.source).is_dir():
        out = Path(options.source) / "sweep.json"
    if out is not None:
        write_text(out, json.dumps(record, indent=2) + "\n")
    print(f"{'epsilon':>12}  accuracy ({record['suite']}, {record['n']} images, {record['seconds']:.0f} s)")
    for epsilon, accuracy in zip(record["epsilons"], record["accuracies"], strict=True):
        print(f"{epsilon:>12.4f}  {accuracy:.2%}")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    return 0
