"""AutoAttack's standard version: `headstart` against plain `pyautoattack`, side by side, on two models.

    python benchmarks/evaluation.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE/evaluation.json

Trains the demo's network on digits and the small network on CIFAR-10, briefly, unless the folder ``--work`` holds them.
The test images are attacked slice by slice, each slice by all contestants in turn, so that whatever else the machine
does hits all alike; the record is written after every slice. All use the same seed and batch size. Plain is the
authors' evaluation of the model as it is loaded; the others are `evaluate_model` with each search precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from headstart.core.threat import ThreatModel
from headstart.data import load
from headstart.evaluation.evaluate import evaluate_model
from headstart.evaluation.settings import EvaluationSettings
from headstart.recipes.reader import load_recipe
from headstart.runs.classifier import load_classifier
from headstart.runs.environment import environment
from headstart.training.train import train

MODELS = {"digits": ("digits/fgsm-sdi", {}), "cifar10": ("cifar10-small/fgsm-rs", {"epochs": 2})}
BATCH, SLICE = 250, 500  # images attacked at once, and in turn
SEED = 0

Contestant = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, dict[str, Any]]]


def plain(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, dict[str, Any]]:
    """Robust or not, bool (N,), by ``pyautoattack`` alone."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10 for the second model")
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation"), help="folder of the trained models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--n", type=int, default=1000, help="test images, the first ones")
    parser.add_argument("--epochs", type=int, default=None, help="of training; default a demo's 40, and 2")
    parser.add_argument("--precisions", nargs="+", default=["auto"], help="of the search")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    arguments = parser.parse_args()
    contestants: dict[str, Contestant] = {"plain": plain} | {p: ours(p) for p in arguments.precisions}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record: dict[str, Any] = {"batch_size": BATCH, "seed": SEED, "models": {}, "environment": environment(device)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        data = arguments.data if name == "cifar10" else name
        run = trained(name, data, arguments.work / name, arguments.epochs)
        for measured in compete(run, data, arguments.n, contestants, device):
            record["models"][name] = measured
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["models"], indent=1))


def trained(name: str, data: str, run: Path, epochs: int | None) -> Path:
    """The run folder of a model, trained if it is not there."""
    recipe, settings = MODELS[name]
    changes = {**settings, "data": data, "device": "cpu"} | ({"epochs": epochs} if epochs else {})
    if not (run / "model.safetensors").exists():
        train(load_recipe(recipe, **changes), run, resume=run.exists(), progress=False)
    return run


def compete(
    run: Path, data: str, n: int, contestants: dict[str, Contestant], device: torch.device
) -> Iterator[dict[str, Any]]:
    """Seconds, robust accuracy and agreement with plain on more and more of the first ``n`` test images."""
    classifier = load_classifier(run)
    epsilon = float(classifier.origin["epsilon"])
    images, labels = load(data, "test").tensors()
    x, y = (images[:n].float() / 255).contiguous().to(device), labels[:n].to(device)
    robust: dict[str, list[Tensor]] = {name: [] for name in contestants}
    rows: dict[str, dict[str, Any]] = {name: {"seconds": 0.0, "cpu_seconds": 0.0} for name in contestants}
    for begin in range(0, len(x), SLICE):
        for name, contestant in contestants.items():
            model = load_classifier(run).network.to(device).eval()
            wall, cpu = time.perf_counter(), time.process_time()
            standing, told = contestant(model, x[begin : begin + SLICE], y[begin : begin + SLICE], epsilon)
            row = rows[name]
            row["seconds"] += time.perf_counter() - wall
            row["cpu_seconds"] += time.process_time() - cpu
            if told:
                before = row.get("attack_seconds", {})
                row["attack_seconds"] = {k: before.get(k, 0.0) + v for k, v in told["attack_seconds"].items()}
                row["precisions"] = [*row.get("precisions", []), told["precision"]]
            robust[name].append(standing.cpu())
            print(data, begin, name, f"{row['cpu_seconds']:.1f} processor seconds", flush=True)
        yield {"n": min(begin + SLICE, len(x)), "epsilon": epsilon, "contestants": _beside_plain(rows, robust)}


def _beside_plain(rows: dict[str, dict[str, Any]], robust: dict[str, list[Tensor]]) -> dict[str, dict[str, Any]]:
    verdicts = {name: torch.cat(parts) for name, parts in robust.items()}
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
