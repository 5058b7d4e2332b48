"""Plain FGSM on digits, which collapses, with and without ``--on_collapse rollback``: accuracies and extra time.

    python benchmarks/collapse.py --out benchmarks/results/DEVICE/collapse.json --seeds 0 1 2

Robust accuracy is that of the suite ``pgd`` on the whole test set. Epsilon still rises when the runs collapse, so the
sound state that a run went back to, and what the runs end with, are attacked at the epsilon of that moment and at the
full one. ``guard`` is the share of the guard (copies of sound states, going back) in the time of the whole run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart.api import evaluate, train
from headstart.runs.checkpoint import load_state
from headstart.runs.environment import environment

RECIPE = "digits/fgsm"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            seeds.append({"seed": seed, **compare(Path(folder), seed, arguments.epochs)})
        print(json.dumps(seeds[-1]), flush=True)
    record = {"recipe": RECIPE, "epochs": arguments.epochs, "seeds": seeds, "environment": environment()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def compare(folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """The same run twice: one goes on through its collapse, the other goes back."""
    shared: dict[str, Any] = {"seed": seed, "epochs": epochs, "keep": epochs, "device": "cpu", "progress": False}
    warned = train(RECIPE, folder / "warn", on_collapse="warn", **shared)
    guarded = train(RECIPE, folder / "rollback", on_collapse="rollback", **shared)
    rollbacks = [told for row in guarded.metrics for told in row.get("rollbacks", [])]
    full = guarded.metrics[-1]["epsilon"]
    found: dict[str, Any] = {
        "rollbacks": rollbacks,
        "collapsed_epochs": {
            "warn": [row["epoch"] for row in warned.metrics if row["collapsed"]],
            "rollback": [row["epoch"] for row in guarded.metrics if row["collapsed"]],
        },
        "guard": guarded.cost["guard_seconds"] / whole_time(guarded.cost),
        "seconds": {"warn": whole_time(warned.cost), "rollback": whole_time(guarded.cost)},
    }
    states = {name: folder / name / "checkpoints" / "last.pt" for name in ("warn", "rollback")}
    epsilons = {full}
    if rollbacks:
        sound = next(row for row in guarded.metrics if row["update"] == rollbacks[0]["to_update"])
        states["sound"] = folder / "rollback" / "checkpoints" / f"epoch-{sound['epoch']:04d}.pt"
        epsilons.add(sound["epsilon"])
    found["pgd"] = {
        f"{epsilon:.4f}": {name: robust(guarded.model, state, epsilon) for name, state in states.items()}
        for epsilon in sorted(epsilons)
    }
    return found


def whole_time(cost: dict[str, float]) -> float:
    """Seconds of updates, validation and guard."""
    return cost["seconds"] + cost["validation_seconds"] + cost["guard_seconds"]


def robust(network: nn.Module, state: Path, epsilon: float) -> dict[str, float]:
    """Clean and PGD accuracy on the test set with the weights of a checkpoint."""
    network.load_state_dict(load_state(state)["network"])
    measured = evaluate(network, data="digits", epsilon=epsilon, suite="pgd", device="cpu", progress=False).to_json()
    return {"clean": measured["clean"], "robust": measured["robust"]}


if __name__ == "__main__":
    main()
