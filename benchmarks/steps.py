"""Seconds per update of FGSM-SDI, side by side with standard training and with the literal published loop.

    python benchmarks/steps.py --out benchmarks/results/DEVICE/steps.json

Updates of all variants are timed in turns in one process, so that whatever else the machine does hits all alike; the
median over rounds counts. FGSM-SDI is timed over whole intervals of its generator, 20 updates, one of them longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import INTERVAL, Workload, literal_sdi_step, method_step
from headstart.engine.record import environment

METHODS = ("standard", "fgsm-rs", "sdi-memory", "fgsm-sdi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workloads = {
        precision: Workload(device, arguments.model, arguments.batch_size, bf16=precision == "bf16")
        for precision in ("fp32", "bf16")
    }
    steps: dict[str, Callable[[int], Any]] = {"literal fgsm-sdi fp32": literal_sdi_step(workloads["fp32"])}
    for precision, workload in workloads.items():
        steps |= {f"{name} {precision}": method_step(workload, name) for name in METHODS}
    seconds = measure(steps, arguments.rounds, device)
    record = {
        "workload": {k: str(v) for k, v in asdict(workloads["fp32"]).items() if k in ("model", "batch_size")},
        "seconds_per_update": seconds,
        "ratio_to_standard": {
            f"{name} {p}": seconds[f"{name} {p}"] / seconds[f"standard {p}"] for p in workloads for name in METHODS
        },
        "ratio_to_literal": {
            f"fgsm-sdi {p}": seconds[f"fgsm-sdi {p}"] / seconds["literal fgsm-sdi fp32"] for p in workloads
        },
        "rounds": arguments.rounds,
        "environment": environment(device),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: record[k] for k in ("seconds_per_update", "ratio_to_standard", "ratio_to_literal")}, indent=1))


def measure(steps: dict[str, Callable[[int], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds per update, weighted 19 : 1 between updates without and with the generator's."""
    kinds = {"with generator": 0, "without": 1}
    times: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in steps for kind in kinds}
    for r in range(rounds + 1):
        for name, step in steps.items():
            for kind, update in kinds.items():
                began = time.perf_counter()
                step(update)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if r:  # the first round warms up
                    times[name, kind].append(time.perf_counter() - began)
    middle = {key: statistics.median(values) for key, values in times.items()}
    return {
        name: ((INTERVAL - 1) * middle[name, "without"] + middle[name, "with generator"]) / INTERVAL for name in steps
    }


if __name__ == "__main__":
    main()
