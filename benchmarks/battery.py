"""The GPU battery: pieces of evidence, most valuable first, one JSON record each, resumable.

    python benchmarks/battery.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE

A piece whose record exists is skipped. ``--only`` names pieces, ``--tiny`` shrinks all of them to a few steps of a
small network, so that the battery itself can be tried on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import Workload, devices_time, literal_sdi_step, method_step, pass_times
from headstart.config import load_recipe
from headstart.engine.evaluate import evaluate
from headstart.engine.record import environment
from headstart.engine.train import train
from headstart.registry import methods
from headstart.threat import LInf


@dataclass(frozen=True)
class Context:
    """Where the battery runs and how large."""

    data: str
    out: Path
    tiny: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def workload(self, batch_size: int, **settings: Any) -> Workload:
        if self.tiny:
            return Workload(self.device, model="small", batch_size=8, **settings)
        return Workload(self.device, model="resnet18", batch_size=batch_size, **settings)


def correctness(context: Context) -> dict[str, Any]:
    """Losses of three updates of every method in fp32 without TF32, on the CPU and on the device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    draw, rows = LInf.uniform, {}
    LInf.uniform = lambda self, like, epsilon: draw(self, like.cpu(), epsilon).to(like.device)  # type: ignore[method-assign]
    try:
        for name in methods():
            losses = []
            for device in ("cpu", str(context.device)):
                step = method_step(Workload(torch.device(device), model="small", batch_size=64), name)
                torch.manual_seed(1)
                losses.append([float(step(k)) for k in range(3)])
            rows[name] = {"cpu": losses[0], "device": losses[1]}
            rows[name]["largest_difference"] = max(abs(a - b) for a, b in zip(*losses, strict=True))
    finally:
        LInf.uniform = draw  # type: ignore[method-assign]
        torch.backends.cudnn.allow_tf32 = True
    drawn_on_the_cpu = ["fgsm", "fgsm-rs", "fgsm-sdi", "n-fgsm", "pgd-at", "standard"]
    worst = max(rows[name]["largest_difference"] for name in drawn_on_the_cpu)
    return {"methods": rows, "worst_with_equal_random_numbers": worst, "passed": worst < 1e-3}


def throughput(**settings: Any) -> Callable[[Context], dict[str, Any]]:
    """Seconds per update, images/s, memory, and the share of the bound that the eager passes at batch 1024 set."""

    def piece(context: Context) -> dict[str, Any]:
        rows = []
        for batch_size in (128, 1024):
            workload = context.workload(batch_size, bf16=True, **({} if context.tiny else settings))
            for name in ("standard", "fgsm-rs", "fgsm-sdi", "sdi-memory", "pgd-at"):
                step = method_step(workload, name)
                seconds, memory = devices_time(step, context.device, 4 if context.tiny else 60)
                row = {
                    "method": name,
                    "batch_size": workload.batch_size,
                    "seconds_per_update": seconds,
                    "images_per_second": workload.batch_size / seconds,
                    "peak_memory_bytes": memory,
                    "passes_per_update": step.passes_per_update(),
                }
                rows.append(row)
                print(row, flush=True)
        for row in rows:
            unit = next(r for r in rows if r["method"] == "standard" and r["batch_size"] == row["batch_size"])
            row["ratio_to_standard"] = row["seconds_per_update"] / unit["seconds_per_update"]
        single = pass_times(context.workload(1024, bf16=True))
        return {
            "precision": "bf16",
            "settings": settings,
            "model": workload.model,
            "rows": rows,
            "eager_passes": single,
        }

    return piece


def literal(context: Context) -> dict[str, Any]:
    """FGSM-SDI against the literal published loop in fp32, side by side; both make the same update."""
    settings: list[tuple[str, dict[str, Any]]] = [
        ("literal fp32", {}),
        ("headstart fp32", {}),
        ("headstart bf16", {"bf16": True}),
        ("headstart bf16 graphs", {"bf16": True, "graphs": not context.tiny}),
    ]
    steps: dict[str, Callable[[int], float | None]] = {}
    for name, setting in settings:
        workload = context.workload(128, **setting)
        steps[name] = literal_sdi_step(workload) if name.startswith("literal") else method_step(workload, "fgsm-sdi")
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):  # in turns, so that whatever else the machine does hits all alike
        for name, step in steps.items():
            rounds[name].append(devices_time(step, context.device, 4 if context.tiny else 40)[0])
    seconds = {name: sorted(times)[1] for name, times in rounds.items()}
    return {
        "batch_size": context.workload(128).batch_size,
        "seconds_per_update": seconds,
        "rounds": rounds,
        "speed_up": {name: seconds["literal fp32"] / s for name, s in seconds.items()},
    }


def training(method: str, epochs: int = 30) -> Callable[[Context], dict[str, Any]]:
    """Train by the recipe cifar10/METHOD; the run stays under OUT/runs for its evaluation."""

    def piece(context: Context) -> dict[str, Any]:
        settings: dict[str, Any] = {"data": context.data, "epochs": epochs, "eval_every": 3}
        if context.tiny:
            settings |= {"model": "small", "epochs": 1, "max_steps": 3, "precision": "fp32"}
        recipe = load_recipe(f"cifar10/{method}", **settings)
        run = context.out / "runs" / f"{method}-{epochs}"
        result = train(recipe, run, resume=run.exists())
        return {"recipe": asdict(recipe), "cost": result.cost, "metrics": result.metrics}

    return piece


def evaluation(method: str, suite: str, n: int | None, epochs: int = 30) -> Callable[[Context], dict[str, Any]]:
    """Evaluate the run that ``training`` left."""

    def piece(context: Context) -> dict[str, Any]:
        run = context.out / "runs" / f"{method}-{epochs}"
        fast = "tf32" if context.device.type == "cuda" else "fp32"
        result = evaluate(run, suite=suite, data=context.data, n=8 if context.tiny else n, search_precision=fast)
        return result.to_json(per_image=False)

    return piece


def graphs(context: Context) -> dict[str, Any]:
    """Losses of 50 updates, eager and replayed as CUDA graphs, of every method that gives a graph key."""
    rows = {}
    with torch.cuda.stream(torch.cuda.Stream()) if context.device.type == "cuda" else nullcontext():
        for name in methods():
            probe = method_step(Workload(context.device, model="small", batch_size=64), name)
            if probe.graph_key() is None:
                continue
            losses = []
            for replayed in (False, True):
                step = method_step(
                    Workload(context.device, model="small", batch_size=64, graphs=replayed and not context.tiny), name
                )
                torch.manual_seed(1)
                losses.append([float(step(k)) for k in range(50)])
            recorded = getattr(step.run, "recordings", {})
            difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
            rows[name] = {"recordings": len(recorded), "largest_difference": difference, "last_loss": losses[0][-1]}
    return {"methods": rows}


PIECES: dict[str, Callable[[Context], dict[str, Any]]] = {
    "correctness": correctness,
    "graphs": graphs,
    "throughput": throughput(),
    "throughput-graphs": throughput(graphs=True),
    "literal": literal,
    "train-fgsm-sdi": training("fgsm-sdi"),
    "autoattack-fgsm-sdi": evaluation("fgsm-sdi", "standard", None),
    "pgd-fgsm-sdi": evaluation("fgsm-sdi", "pgd", None),
}
for _method in ("fgsm-rs", "liet", "pgd-at"):
    PIECES |= {
        f"train-{_method}": training(_method),
        f"pgd-{_method}": evaluation(_method, "pgd", None),
        f"autoattack-1000-{_method}": evaluation(_method, "standard", 1000),
    }
PIECES["throughput-graphs-compiled"] = throughput(graphs=True, compiled=True)


def run(context: Context, names: list[str]) -> Iterator[str]:
    """Run the pieces whose records do not exist yet."""
    for name in names:
        path = context.out / f"{name}.json"
        if path.exists():
            yield f"{name}: has a record"
            continue
        began = time.perf_counter()
        record = PIECES[name](context)
        record |= {"piece": name, "piece_seconds": time.perf_counter() - began, "tiny": context.tiny}
        record["environment"] = environment(context.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        yield f"{name}: {record['piece_seconds']:.1f} s -> {path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10: cifar10, or parquet:PATH")
    parser.add_argument("--out", type=Path, required=True, help="folder for the records")
    parser.add_argument("--only", nargs="*", choices=list(PIECES), default=list(PIECES))
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small network, to try the battery")
    arguments = parser.parse_args()
    context = Context(arguments.data, arguments.out, arguments.tiny)
    for line in run(context, arguments.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
