"""What it is worth that a process keeps the memory that the last pass of a network freed: `core.memory`.

    OMP_NUM_THREADS=1 python benchmarks/page_faults.py --out benchmarks/results/DEVICE/page-faults.json

Updates of FGSM-SDI and steps of an attack (the input gradient and a forward pass of the network in evaluation mode) on
random images, on a processor. Each network, precision and way of keeping memory is measured in a process of its own, in
turns, since the setting holds for a process. A record has the processor milliseconds of the user and of the system and
the page faults of an update and of a step, the medians of the rounds. Rows that the record has are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import EPSILON, Update, Workload, method_step, plain_network
from headstart.attacks.scores import fooled, input_gradient, margin
from headstart.core.memory import reuse_memory
from headstart.core.threat import ThreatModel
from headstart.evaluation.search import Bfloat16, folded
from headstart.runs.environment import environment

MANY, FEW = {"update": 128, "attack": 250}, {"update": 32, "attack": 50}  # images of a batch
NETWORKS: dict[str, tuple[str, dict[str, Any] | None, dict[str, int]]] = {
    "small of cifar10-small": ("small", {"blocks": [1, 1, 1], "widths": [32, 64, 128], "stem_stride": 2}, MANY),
    "small of cifar10-deep": ("small", {"blocks": [2, 2, 2], "widths": [8, 16, 32], "stem_stride": 1}, MANY),
    "fast 64-128-256, stride 2": ("fast", {"widths": [64, 128, 256], "stride": 2}, MANY),
    "fast 64-128-256": ("fast", {"widths": [64, 128, 256]}, MANY),
    "resnet18": ("resnet18", None, FEW),
}
PRECISIONS = ("fp32", "bf16")
WAYS = ("returned", "kept")  # freed memory: to the system, or for the next pass
WARM_UP, TIMES, ROUNDS = 2, 5, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON record")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--table", action="store_true", help="show the record as the table of docs/fast.md")
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "NETWORK", "PRECISION", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(*arguments.one)))
        return
    if arguments.out is None:
        parser.error("--out is needed: the record")
    if arguments.table:
        print(markdown(json.loads(arguments.out.read_text())))
        return
    record: dict[str, Any] = {"rows": [], "environment": environment(torch.device("cpu"))}
    if arguments.out.exists():
        record = json.loads(arguments.out.read_text())
    known = {(row["what"], row["network"], row["precision"]) for row in record["rows"]}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in itertools.product(MANY, arguments.networks, PRECISIONS):
        if case in known:
            continue
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for way in WAYS * ROUNDS:
            rounds[way].append(apart(*case, way))
        record["rows"].append(row := row_of(*case, rounds))
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(row), flush=True)


def row_of(what: str, network: str, precision: str, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of the rounds, and how much of the processor time is left where memory is kept."""
    found = {way: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for way, ones in rounds.items()}
    total = {way: one["user_ms"] + one["system_ms"] for way, one in found.items()}
    case = {"what": what, "network": network, "precision": precision, "batch_size": NETWORKS[network][2][what]}
    return {**case, **found, "kept_to_returned": total["kept"] / total["returned"]}


def markdown(record: dict[str, Any]) -> str:
    """The table of docs/fast.md."""
    names = {"update": "update of FGSM-SDI", "attack": "step of an attack"}
    lines = ["| network | what | precision | given back, ms | kept, ms | ratio |", "|---|---|---|---|---|---|"]
    for row in record["rows"]:
        spent = [f"{row[way]['user_ms'] + row[way]['system_ms']:.0f}" for way in WAYS]
        case = f"{row['network']}, batch {row['batch_size']} | {names[row['what']]} | {row['precision']}"
        lines.append(f"| {case} | {' | '.join(spent)} | {row['kept_to_returned']:.2f} |")
    return "\n".join(lines) + "\n"


def apart(what: str, network: str, precision: str, way: str) -> dict[str, float]:
    """``measured`` in a process of its own."""
    command = [sys.executable, __file__, "--one", what, network, precision, way]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return found


def measured(what: str, network: str, precision: str, way: str) -> dict[str, float]:
    """Processor milliseconds and page faults of an update or a step, and the most memory the process ever had."""
    if way == "kept":
        reuse_memory(torch.device("cpu"))
    model, args, batches = NETWORKS[network]
    workload = Workload(torch.device("cpu"), model, batches[what], bf16=precision == "bf16", model_args=args)
    step = method_step(workload, "fgsm-sdi") if what == "update" else attack_step(workload)
    for _ in range(WARM_UP):
        step(1)  # one without the generator's own update
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(TIMES):
        step(1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user_ms": 1000 * (after.ru_utime - before.ru_utime) / TIMES,
        "system_ms": 1000 * (after.ru_stime - before.ru_stime) / TIMES,
        "faults": (after.ru_minflt - before.ru_minflt) / TIMES,
        "peak_megabytes": after.ru_maxrss / 1024,
    }


def attack_step(workload: Workload) -> Update:
    """A step of FAB without its own arithmetic: an input gradient and a forward pass."""
    network = plain_network(workload).eval().requires_grad_(False)
    x, y = (t.contiguous() for t in workload.batch())
    copy = folded(network, x[:32], y[:32], ThreatModel(EPSILON)) or network
    search = Bfloat16(copy) if workload.bf16 else copy

    def step(_: int) -> None:
        input_gradient(search, x, y, margin)
        fooled(search, x, y)

    return step


if __name__ == "__main__":
    main()
