"""``headstart compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("a", type=str, help="run folder, JSON file of an evaluation, or what headstart evaluate takes")
    sub.add_argument("b", type=str, help="the same, of the other model")
    sub.add_argument("--suite", type=Optional[str], default=None, help="default: that of the records, else quick")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--epsilon", type=Optional[str], default=None, help="pixel fraction such as 8/255")
    sub.add_argument("--data", type=Optional[str], default=None, help="default: what the weights were trained on")
    sub.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    sub.add_argument("--seed", type=int, default=0, help="of attacks and bootstrap")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.evaluation.compare import compare
    from headstart.runs.files import write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("a", "b", "out")}
    compared = compare(options.a, options.b, **settings)
    if options.out is not None:
        write_text(options.out, json.dumps(compared.to_json(), indent=2) + "\n")
    print(f"suite {compared.suite}, {compared.n} images, epsilon {compared.epsilon:.4g}, norm {compared.norm}")
    print(f"{'robust':>12}  {compared.robust_a:.2%}  {compared.a}")
    print(f"{'robust':>12}  {compared.robust_b:.2%}  {compared.b}")
    print(f"{'robust':>12}  both {compared.both}, only the first {compared.only_a}, only the second {compared.only_b}")
    low, high = (100 * end for end in compared.interval)
    print(f"{'difference':>12}  {100 * compared.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    print(f"{'McNemar':>12}  p = {compared.p_value:.2g}")
    print(compared.verdict)
    return 0
