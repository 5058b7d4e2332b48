"""``headstart compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.flags import add_fields, given
from headstart.evaluation.settings import EvaluationSettings
from headstart.fields import fraction_of_pixels


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("a", type=str, help="run folder, JSON file of an evaluation, or what headstart evaluate takes")
    sub.add_argument("b", type=str, help="the same, of the other model")
    add_fields(sub, EvaluationSettings, only=("suite", "n", "epsilon", "data", "device", "seed"))
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.evaluation.compare import compare
    from headstart.runs.files import check_writable, write_text

    if options.out is not None:
        check_writable(options.out)
    compared = compare(options.a, options.b, **given(options, EvaluationSettings))
    if options.out is not None:
        write_text(options.out, json.dumps(compared.to_json(), indent=2) + "\n")
    epsilon = fraction_of_pixels(compared.epsilon)
    print(f"suite {compared.suite}, {compared.n} images, epsilon {epsilon}, norm {compared.norm}")
    print(f"{'robust':>12}  {compared.robust_a:.2%}  {compared.a}")
    print(f"{'robust':>12}  {compared.robust_b:.2%}  {compared.b}")
    print(f"{'robust':>12}  both {compared.both}, only the first {compared.only_a}, only the second {compared.only_b}")
    low, high = (100 * end for end in compared.interval)
    print(f"{'difference':>12}  {100 * compared.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    print(f"{'McNemar':>12}  p = {compared.p_value:.2g}")
    print(compared.verdict)
    return 0
