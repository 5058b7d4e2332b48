"""AutoAttack's standard version: `headstart` against plain `pyautoattack`, side by side, on three models.

    python benchmarks/evaluation.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE/evaluation.json

Trains the demo's network on digits and two small ones on CIFAR-10, briefly, unless the folder ``--work`` holds them.
The test images are attacked slice by slice, each slice by all contestants in turn, so that whatever else the machine
does hits all alike, and each in a process of its own, so that what one does to its process helps no other. The record
is written after every slice; ``table`` makes of records what docs/evaluation.md shows. All use the same seed and batch
size. Plain is the authors' evaluation of the model as it is loaded; the others are `evaluate_model` with each search
precision.

Before that, the record gets what bounds the search: milliseconds of a forward pass and of an input gradient of the
model as it is, of the copy with folded batch-norm and of that copy in bfloat16, with one thread and with all, and the
share of convolutions in the latter's time.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headstart.attacks.scores import cross_entropy, input_gradient
from headstart.core.threat import ThreatModel
from headstart.data import load
from headstart.evaluation.evaluate import evaluate_model
from headstart.evaluation.search import Bfloat16, folded
from headstart.evaluation.settings import EvaluationSettings
from headstart.recipes.reader import load_recipe
from headstart.runs.classifier import load_classifier
from headstart.runs.environment import environment
from headstart.training.train import train

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("digits/fgsm-sdi", {}),
    "cifar10": ("cifar10-small/fgsm-rs", {"epochs": 2}),
    "cifar10-deep": ("cifar10-deep/fgsm-sdi", {}),
}
BATCH, SLICE = 250, 500  # images attacked at once, and in turn
PASS, ROUNDS = 128, 15  # images of the passes that are timed by themselves, and how often they are
SEED = 0

Contestant = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, dict[str, Any]]]


def plain(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, dict[str, Any]]:
    """Robust or not, bool (N,), by ``pyautoattack`` alone."""
    from pyautoattack import AutoAttack  # what else is here does not need it

    device = next(model.parameters()).device
    attack = AutoAttack(model, norm="Linf", eps=epsilon, seed=SEED, version="standard", device=device)
    _, predicted = attack.run_standard_evaluation(x, y, batch_size=BATCH)
    return predicted == y, {}


def ours(precision: str) -> Contestant:
    """Robust or not, bool (N,), with seconds by attack and the precision of the search, by ``evaluate_model``."""

    def contestant(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, dict[str, Any]]:
        settings = EvaluationSettings("standard", batch_size=BATCH, seed=SEED, search_precision=precision)
        result = evaluate_model(model, x, y, ThreatModel(epsilon), settings, progress=False)
        return torch.tensor([by is None for by in result.broken_by]), {
            "attack_seconds": result.attack_seconds,
            "precision": result.precision,
        }

    return contestant


CONTESTANTS: dict[str, Contestant] = {"plain": plain} | {p: ours(p) for p in ("auto", "fp32", "tf32", "bf16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10 for the other models")
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation"), help="folder of the trained models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--n", type=int, default=1000, help="test images, the first ones")
    parser.add_argument("--epochs", type=int, default=None, help="of training; default 40, 2 and 3")
    parser.add_argument("--precisions", nargs="+", choices=list(CONTESTANTS)[1:], default=["auto"])
    parser.add_argument("--out", type=Path, help="JSON record")
    parser.add_argument("--one", nargs=5, metavar=("NAME", "RUN", "DATA", "BEGIN", "END"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, run, data, begin, end = arguments.one
        print(json.dumps(attacked(name, Path(run), data, int(begin), int(end))))
        return
    if arguments.out is None:
        parser.error("--out is needed: the record")
    names = ["plain", *arguments.precisions]
    device = _device()
    record: dict[str, Any] = {
        "batch_size": BATCH,
        "seed": SEED,
        "passes": {},
        "models": {},
        "environment": environment(device),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        data = name if name == "digits" else arguments.data
        run = trained(name, data, arguments.work / name, arguments.epochs)
        if device.type == "cpu":
            record["passes"][name] = passes_of(run, data)
        for measured in compete(run, data, arguments.n, names):
            record["models"][name] = measured
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["models"], indent=1))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(name: str, data: str, run: Path, epochs: int | None) -> Path:
    """The run folder of a model, trained if it is not there."""
    recipe, settings = MODELS[name]
    changes = {**settings, "data": data, "device": "cpu"} | ({"epochs": epochs} if epochs else {})
    if not (run / "model.safetensors").exists():
        train(load_recipe(recipe, **changes), run, resume=run.exists(), progress=False)
    return run


def passes_of(run: Path, data: str) -> dict[str, Any]:
    """Milliseconds of the passes that an attack consists of, and how much of them is convolutions."""
    classifier = load_classifier(run)
    model = classifier.network.eval().requires_grad_(False)
    images, labels = load(data, "test").tensors()
    x, y = (images[:PASS].float() / 255).contiguous(), labels[:PASS]
    copy = folded(model, x[:32], y[:32], ThreatModel(float(classifier.origin["epsilon"])))
    assert copy is not None
    kinds = {"plain": model, "folded": copy, "folded, bf16": Bfloat16(copy)}
    steps: dict[str, Callable[[], object]] = {}
    for kind, network in kinds.items():
        steps[f"{kind}: forward"] = functools.partial(_forward, network, x)
        steps[f"{kind}: gradient"] = functools.partial(input_gradient, network, x, y, cross_entropy)
    threads = torch.get_num_threads()
    found: dict[str, Any] = {"images": PASS}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        found[f"milliseconds, threads: {count}"] = _milliseconds(steps)
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        steps["folded, bf16: gradient"]()
    torch.set_num_threads(threads)
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    found["share of convolutions"] = sum(t for key, t in spent.items() if "convolution" in key) / sum(spent.values())
    return found


def _milliseconds(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians of rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    return logits


def compete(run: Path, data: str, n: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Seconds, robust accuracy and agreement with plain on more and more of the first ``n`` test images."""
    epsilon = float(load_classifier(run).origin["epsilon"])
    n = min(n, len(load(data, "test")))
    standing: dict[str, list[bool]] = {name: [] for name in names}
    rows: dict[str, dict[str, Any]] = {name: {"seconds": 0.0, "cpu_seconds": 0.0} for name in names}
    for begin in range(0, n, SLICE):
        end = min(begin + SLICE, n)
        for name in names:
            command = [sys.executable, __file__, "--one", name, str(run), data, str(begin), str(end)]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found, row = json.loads(process.stdout.splitlines()[-1]), rows[name]
            for key in ("seconds", "cpu_seconds"):
                row[key] += found[key]
            if found["told"]:
                before = row.get("attack_seconds", {})
                row["attack_seconds"] = {k: before.get(k, 0.0) + v for k, v in found["told"]["attack_seconds"].items()}
                row["precisions"] = [*row.get("precisions", []), found["told"]["precision"]]
            standing[name] += found["standing"]
            print(data, begin, name, f"{row['cpu_seconds']:.1f} processor seconds", flush=True)
        verdicts = {name: torch.tensor(stand) for name, stand in standing.items()}
        yield {"n": end, "epsilon": epsilon, "contestants": _beside_plain(rows, verdicts)}


def attacked(name: str, run: Path, data: str, begin: int, end: int) -> dict[str, Any]:
    """What a contestant finds on a slice of the test images, and what that costs."""
    device, classifier = _device(), load_classifier(run)
    images, labels = load(data, "test").tensors()
    x, y = (images[begin:end].float() / 255).contiguous().to(device), labels[begin:end].to(device)
    model = classifier.network.to(device).eval()
    wall, cpu = time.perf_counter(), time.process_time()
    standing, told = CONTESTANTS[name](model, x, y, float(classifier.origin["epsilon"]))
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "standing": standing.tolist(),
        "told": told,
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """A row for each model of each record, in Markdown: what the default takes of plain's processor time."""
    head = ("recipe of the model", "images", "device", "search", "plain, s", "here, s", "ratio", "verdicts that differ")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for record in records:
        for name, measured in record["models"].items():
            plain, ours = (measured["contestants"][kind] for kind in ("plain", "auto"))
            searches = dict.fromkeys(precision.partition(" ")[0] for precision in ours["precisions"])
            cells = [f"`{MODELS[name][0]}`", f"{measured['n']:,}", record["environment"]["device"], ", ".join(searches)]
            cells += [f"{row['cpu_seconds']:.0f}" for row in (plain, ours)]
            cells += [f"{ours['cpu_seconds_to_plain']:.2f}", str(len(ours["rows_unlike_plain"]))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beside_plain(rows: dict[str, dict[str, Any]], verdicts: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    plain = rows["plain"]
    return {
        name: {
            **row,
            "robust": verdicts[name].float().mean().item(),
            "rows_unlike_plain": (verdicts[name] != verdicts["plain"]).nonzero().squeeze(1).tolist(),
            "robust_only_here": int((verdicts[name] & ~verdicts["plain"]).sum()),
            "seconds_to_plain": row["seconds"] / plain["seconds"],
            "cpu_seconds_to_plain": row["cpu_seconds"] / plain["cpu_seconds"],
        }
        for name, row in rows.items()
    }


if __name__ == "__main__":
    main()
