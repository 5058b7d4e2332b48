"""``headstart sweep``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.evaluate import GROUPS, SOURCE
from headstart.commands.flags import add_fields, given
from headstart.evaluation.settings import NOT_SWEPT, EvaluationSettings
from headstart.fields import fraction_of_pixels
from headstart.runs.folder import RunFolder


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("source", type=str, help=SOURCE)
    add_fields(sub, EvaluationSettings, skip=NOT_SWEPT, groups=GROUPS)
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default sweep.json in the run")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.evaluation.sweep import sweep
    from headstart.runs.files import check_writable, write_text

    out = options.out
    if out is None and Path(options.source).is_dir():
        out = RunFolder(Path(options.source)).sweep
    if out is not None:
        check_writable(out)
    record = sweep(options.source, **given(options, EvaluationSettings)).to_json()
    if out is not None:
        write_text(out, json.dumps(record, indent=2) + "\n")
    print(f"{'epsilon':>12}  accuracy ({record['suite']}, {record['n']} images, {record['seconds']:.0f} s)")
    for epsilon, accuracy in zip(record["epsilons"], record["accuracies"], strict=True):
        print(f"{fraction_of_pixels(epsilon):>12}  {accuracy:.2%}")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    return 0
