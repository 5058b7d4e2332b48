"""Seconds per update of every method, beside standard training, its own passes and the literal published loop.

    python benchmarks/steps.py --out benchmarks/results/DEVICE/steps.json
    python benchmarks/steps.py --out ... --models resnet18 --precisions bf16 --only fgsm-rs fgsm-sdi
    python benchmarks/steps.py --out ... --table

A row is one method on one network in one precision. All it is compared with is timed in the same process, in turns:
the elementary passes of the same network, standard training and FGSM-RS, and where there is one the literal published
loop in fp32. Rows are written as they are made; those that the record has are skipped unless ``--again``, so a run
may be interrupted, or cut into pieces by its flags.

The bound of a method is the time of its passes, as counted over an interval of 20 updates, each at the price of that
pass alone, and of one optimiser step. For FGSM-SDI and its kin it includes the generator's own forward and update.
What a method does beyond its bound is the library's share.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import (
    INTERVAL,
    LITERAL,
    MethodStep,
    Update,
    Workload,
    in_turns,
    literal_step,
    pass_seconds,
    peak_bytes,
    single_passes,
)
from headstart.methods.registry import methods
from headstart.runs.environment import environment

BATCH_SIZES = {"resnet18": 32, "small": 128}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "compiled": {"bf16": True, "compiled": True},
    "graphs": {"bf16": True, "graphs": True},
}
# Seconds on the wall are what a user waits for. CPU seconds of the process, with one thread (OMP_NUM_THREADS=1), stay
# nearly the same while other work runs beside it.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
REFERENCES = ("standard", "fgsm-rs")  # in every process, so that ratios to them are taken within one
AT_ONCE = 6  # methods in a process's turn; more would hold too much memory
WITH_LITERAL = {*LITERAL, "fgsm-sdi"}


@dataclass(frozen=True)
class Target:
    """A limit on a number of the rows, on ResNet-18."""

    text: str
    number: str
    limit: float
    method: str | None = None
    """None for every method."""

    def judge(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """One verdict per precision that has been measured: the worst value and whose it is."""
        for precision in PRECISIONS:
            values = {
                row["method"]: row[self.number]
                for row in rows
                if row["model"] == "resnet18" and row["precision"] == precision and row.get(self.number) is not None
                if self.method in (None, row["method"])
            }
            if values:
                worst = max(values, key=lambda name: values[name])
                over = sorted(name for name, value in values.items() if value > self.limit)
                yield {
                    "target": f"{self.text}, {precision}",
                    "limit": self.limit,
                    "worst": {worst: values[worst]},
                    "missed_by": over,
                }


TARGETS = (
    Target("each method over its pass-count bound", "ratio_to_bound", 1.10),
    Target("FGSM-SDI over the literal published loop in fp32", "ratio_to_literal", 0.55, "fgsm-sdi"),
    Target("sdi-memory over FGSM-RS", "ratio_to_fgsm_rs", 1.15, "sdi-memory"),
    Target("FGSM-SDI over standard training", "ratio_to_standard", 2.6, "fgsm-sdi"),
)


def main(argv: Sequence[str] | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--models", nargs="+", choices=list(BATCH_SIZES), default=list(BATCH_SIZES))
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=possible_precisions(device))
    parser.add_argument("--only", nargs="+", choices=list(methods()), default=list(methods()), metavar="METHOD")
    parser.add_argument("--batch_size", type=int, help="default 32 for resnet18, 128 for small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: for a machine that others use too")
    parser.add_argument("--again", action="store_true", help="measure rows anew that the record has")
    parser.add_argument("--table", action="store_true", help="only print what the record has")
    arguments = parser.parse_args(argv)
    record = Record(arguments.out, device)
    if not arguments.table:
        for model in arguments.models:
            for precision in arguments.precisions:
                batch_size = arguments.batch_size or BATCH_SIZES[model]
                workload = Workload(device, model, batch_size, **PRECISIONS[precision])
                missing = [name for name in arguments.only if arguments.again or not record.has(model, precision, name)]
                # A compiled network is compiled for one method alone, as in a run.
                chunk = 1 if precision == "compiled" else AT_ONCE
                for i in range(0, len(missing), chunk):
                    print(f"{model} {precision}: {', '.join(missing[i : i + chunk])}", flush=True)
                    names = missing[i : i + chunk]
                    record.add(measure(workload, precision, names, arguments.rounds, arguments.clock))
    record.print()


def possible_precisions(device: torch.device) -> list[str]:
    """Those this machine can run: graphs need CUDA, compiling for a CPU needs a C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    possible = {"graphs": device.type == "cuda", "compiled": device.type == "cuda" or compiler is not None}
    return [precision for precision in PRECISIONS if possible.get(precision, True)]


def measure(workload: Workload, precision: str, names: list[str], rounds: int, clock: str) -> list[dict[str, Any]]:
    """Rows of some methods, timed in turns with each other and all that they are compared with."""
    device = workload.device
    if workload.compiled:
        torch._dynamo.reset()
    plain = Workload(device, workload.model, workload.batch_size)
    made = {name: MethodStep(workload, name) for name in dict.fromkeys((*REFERENCES, *names))}
    generators = {name: step.generator_steps() for name, step in made.items()}
    passes = single_passes(workload)
    steps: dict[str, Update] = {**passes, **{f"method {name}": step for name, step in made.items()}}
    steps |= {f"literal {name}": literal_step(plain, name) for name in names if name in WITH_LITERAL}
    steps |= {f"{part} {name}": step for name, parts in generators.items() for part, step in parts.items()}
    warm_up = 5 if workload.graphs else 1  # a graph is recorded after three updates of its kind
    seconds = in_turns(steps, rounds, device, warm_up, CLOCKS[clock])
    prices = pass_seconds({name: seconds[name] for name in passes})
    standard, fgsm_rs = (seconds[f"method {name}"] for name in REFERENCES)
    rows = []
    for name in names:
        ours, counted, step = seconds[f"method {name}"], made[name].passes_per_interval(), made[name]
        bound = prices["optimizer"] + sum(count * prices[kind] for kind, count in counted.items())
        row = {
            "method": name,
            "model": workload.model,
            "batch_size": workload.batch_size,
            "precision": precision,
            "seconds_per_update": ours,
            "images_per_second": workload.batch_size / ours,
            "ratio_to_standard": ours / standard,
            "ratio_to_fgsm_rs": ours / fgsm_rs,
            "passes_per_update": counted,
            "pass_seconds": prices,
        }
        if generators[name]:
            generator = seconds[f"proposal {name}"] + seconds[f"generator update {name}"] / INTERVAL
            bound += generator
            row |= {"generator_seconds": generator, "generator_share": generator / ours}
        row |= {"bound_seconds": bound, "ratio_to_bound": ours / bound}
        if f"literal {name}" in seconds:
            literal = seconds[f"literal {name}"]
            row |= {"literal_fp32_seconds": literal, "ratio_to_literal": ours / literal}
        row |= {"update_bytes": peak_bytes(step, device), "state_bytes": step.state_bytes()}
        row |= {"rounds": rounds, "clock": clock}
        rows.append(row)
    return rows


class Record:
    """The JSON record of one machine, a row per model, precision and method."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.environment = path, environment(device)
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            stored = json.loads(path.read_text())
            if "rows" not in stored:
                sys.exit(f"{path} is a record of another script; give another --out")
            self.rows = stored["rows"]
            for key in ("device", "torch"):
                if stored["environment"][key] != self.environment[key]:
                    sys.exit(f"{path} was made with {stored['environment'][key]}, this is {self.environment[key]}")

    def has(self, *key: str) -> bool:
        """Whether there is a row of this model, precision and method."""
        return key in map(row_key, self.rows)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Put rows in, over older ones, and write the file."""
        table = {row_key(row): row for row in (*self.rows, *rows)}
        self.rows = [table[key] for key in sorted(table)]
        content = {"environment": self.environment, "targets": self.verdicts(), "rows": self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n")

    def verdicts(self) -> list[dict[str, Any]]:
        """What the rows say of the targets."""
        return [verdict for target in TARGETS for verdict in target.judge(self.rows)]

    def print(self) -> None:
        """All rows as tables, one per model and precision, and the targets."""
        console = Console(width=130)
        for model, precision in dict.fromkeys(row_key(row)[:2] for row in self.rows):
            rows = [row for row in self.rows if row_key(row)[:2] == (model, precision)]
            table = Table(title=f"{model}, batch {rows[0]['batch_size']}, {precision}")
            for heading, _ in COLUMNS:
                table.add_column(heading, justify="left" if heading == "method" else "right")
            for row in rows:
                table.add_row(*(cell(row) for _, cell in COLUMNS))
            console.print(table)
        for verdict in self.verdicts():
            ((name, value),), missed = verdict["worst"].items(), verdict["missed_by"]
            outcome = f"missed by {', '.join(missed)}" if missed else "met"
            console.print(f"{verdict['target']}: at most {verdict['limit']}; worst {value:.3f} ({name}): {outcome}")


def row_key(row: dict[str, Any]) -> tuple[str, str, str]:
    """What identifies a row."""
    return row["model"], row["precision"], row["method"]


COLUMNS = (
    ("method", lambda row: row["method"]),
    ("ms", lambda row: f"{1e3 * row['seconds_per_update']:.1f}"),
    ("images/s", lambda row: f"{row['images_per_second']:.0f}"),
    ("/standard", lambda row: f"{row['ratio_to_standard']:.2f}"),
    ("/FGSM-RS", lambda row: f"{row['ratio_to_fgsm_rs']:.2f}"),
    ("/bound", lambda row: f"{row['ratio_to_bound']:.3f}"),
    ("/literal", lambda row: f"{row['ratio_to_literal']:.2f}" if "ratio_to_literal" in row else ""),
    ("generator", lambda row: f"{row['generator_share']:.1%}" if "generator_share" in row else ""),
    ("update, MB", lambda row: f"{row['update_bytes'] / 1e6:.0f}"),
    ("state, MB", lambda row: f"{row['state_bytes'] / 1e6:.1f}"),
)


if __name__ == "__main__":
    main()
