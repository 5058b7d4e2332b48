"""``headstart evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.subject import add_subject


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    add_subject(sub)
    sub.add_argument("--suite", type=str, default="standard", help="headstart list suites")
    sub.add_argument("--devices", type=int, default=1, help="processes that share the work; the numbers stay the same")
    sub.add_argument("--search_precision", type=str, default="fp32", help="fp32, tf32 or bf16; verdicts are fp32")
    sub.add_argument("--transfer_from", type=Optional[str], default=None, help="second model, for suite full")
    sub.add_argument("--save_examples", type=Optional[Path], default=None, help=".safetensors for the worst examples")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default evaluation.json in the run")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.core import distributed
    from headstart.evaluation.evaluate import evaluate
    from headstart.runs.files import check_writable, write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("source", "out")}
    out = options.out
    if out is None and Path(options.source).is_dir():
        out = Path(options.source) / "evaluation.json"
    if out is not None:
        check_writable(out)
    partial = None if out is None else out.with_suffix(".partial.safetensors")
    try:
        record = evaluate(options.source, partial=partial, **settings).to_json()
    except KeyboardInterrupt:
        kept = partial is not None and partial.exists()
        remedy = "the same command continues after the last finished attack" if kept else "no attack was finished"
        print(f"headstart: interrupted; {remedy}", file=sys.stderr)
        return 130
    if distributed.rank() > 0:
        return 0
    if out is not None:
        write_text(out, json.dumps(record, indent=2) + "\n")
    for name, accuracy in [("clean", record["clean"]), *record["attacks"].items()]:
        print(f"{name:>12}  {accuracy:.2%}")
    measured = f"{record['suite']}, {record['n']} images, {record['seconds']:.0f} s"
    print(f"{'robust':>12}  {record['robust']:.2%}  ({measured})")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    return 0
