"""``headstart evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.errors import SettingError
from headstart.evaluation.settings import EvaluationSettings
from headstart.runs.folder import RunFolder, partial_of

if TYPE_CHECKING:
    from headstart.evaluation.result import Evaluation

SOURCE = "run folder, weights file, hub:OWNER/NAME or module:callable"
GROUPS = {
    "data": ("data", "image_size", "image_column", "label_column", "n"),
    "network": ("model", "model_args"),
    "attack": ("suite", "epsilon", "norm", "seed", "transfer_from"),
    "hardware": ("device", "devices", "batch_size", "search_precision"),
}
"""How the help arranges the settings of an evaluation."""


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("source", type=Optional[str], nargs="?", default=None, help=SOURCE)
    add_fields(sub, EvaluationSettings, groups=GROUPS)
    sub.add_argument("--save_examples", type=Optional[Path], default=None, help=".safetensors for the worst examples")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default evaluation.json in the run")
    sub.add_argument(
        "--budget", type=Optional[str], default=None, metavar="TIME",
        help="spend 90s, 10m or 1.5h on the tightest upper bound, in place of a suite; record bound.json in the run",
    )  # fmt: skip
    sub.add_argument(
        "--replay", type=Optional[Path], default=None, metavar="FILE",
        help="evaluate anew with the settings of this record; 0 where every verdict is the recorded one, else 1",
    )  # fmt: skip


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    asked = {**given(options, EvaluationSettings), "save_examples": options.save_examples}
    if options.budget is not None and options.replay is not None:
        raise SettingError("budget and replay are given; a record is made anew by its suite, without a budget")
    if options.replay is not None:
        return _replay(options, asked)
    if options.source is None:
        raise SettingError("evaluate needs SOURCE (headstart evaluate --help)")
    out = options.out
    if out is None and Path(options.source).is_dir():
        folder = RunFolder(Path(options.source))
        out = folder.evaluation if options.budget is None else folder.bound
    if options.budget is not None:
        return _bound(options.source, out, {**asked, "budget": options.budget})
    return _evaluate(options.source, out, asked)


def _bound(source: str, out: Path | None, asked: dict[str, Any]) -> int:
    from headstart.evaluation.bound import bound, bound_into

    try:
        found = bound(source, **asked) if out is None else bound_into(out, source, **asked)
    except KeyboardInterrupt:
        print("headstart: interrupted; nothing of an evaluation by budget is kept, run it again", file=sys.stderr)
        return 130
    print(f"{'clean':>12}  {found.clean:.2%}")
    for name, fared in found.attacks.items():
        print(f"{name:>12}  broke {fared['broken']} of {fared['tried']} images in {fared['seconds']:.0f} s")
    low, high = found.interval
    print(f"{'upper bound':>12}  {found.bound:.2%}, 95 % interval {low:.2%} to {high:.2%}")
    print(f"{'':>12}  {found.n} of {found.total} images, dealt at random, in {found.seconds:.0f} s; not AutoAttack")
    for warning in found.warnings:
        print(f"warning: {warning}")
    return 0


def _evaluate(source: str, out: Path | None, asked: dict[str, Any]) -> int:
    from headstart.evaluation.evaluate import evaluate, evaluate_into

    try:
        found = evaluate(source, **asked) if out is None else evaluate_into(out, source, **asked)
    except KeyboardInterrupt:
        kept = out is not None and partial_of(out).exists()
        remedy = "the same command continues after the last finished attack" if kept else "no attack was finished"
        print(f"headstart: interrupted; {remedy}", file=sys.stderr)
        return 130
    _print(found)
    return 0


def _replay(options: Namespace, asked: dict[str, Any]) -> int:
    from headstart.core import distributed
    from headstart.evaluation.replay import replay
    from headstart.runs.files import check_writable, write_text

    if options.out is not None:
        check_writable(options.out)
    replayed = replay(options.replay, options.source, **asked)
    _print(replayed.now)
    if distributed.rank() == 0:
        print(f"{options.replay}: {replayed.verdict}")
        if options.out is not None:
            write_text(options.out, json.dumps(replayed.now.to_json(), indent=2) + "\n")
    return 0 if replayed.agrees else 1


def _print(found: Evaluation) -> None:
    """The accuracies and warnings, by the first process."""
    from headstart.core import distributed

    if distributed.rank() > 0:
        return
    for name, accuracy in [("clean", found.clean), *found.attacks.items()]:
        print(f"{name:>12}  {accuracy:.2%}")
    print(f"{'robust':>12}  {found.robust:.2%}  ({found.suite}, {found.n} images, {found.seconds:.0f} s)")
    for warning in found.warnings:
        print(f"warning: {warning}")
