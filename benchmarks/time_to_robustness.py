"""Robustness by processor seconds of training: what each ingredient of `cifar10-fast` is worth.

    python benchmarks/time_to_robustness.py --out benchmarks/results/DEVICE/time-to-robustness

Ladders of steps with about the same budget of processor seconds on one core. Every step is a recipe of the library with
fields changed, trained once per seed. One record per step and seed; those that exist are kept, and a run that was cut
off goes on. Epochs are set per step by the speed of a first run, so the seconds vary by what else the machine does:
the records say what was spent. Accuracies are those of the last weights on the first test images; the steps of
``AUTOATTACKED`` are also attacked by AutoAttack. The table is for docs/fast.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headstart.evaluation.evaluate import evaluate
from headstart.recipes.reader import load_recipe
from headstart.runs.environment import environment
from headstart.runs.files import write_text
from headstart.training.train import train

IMAGES = 500  # test images, the first ones
LIGHT: dict[str, Any] = {"suite": "light", "n": IMAGES, "search_precision": "bf16"}


@dataclass(frozen=True)
class Rung:
    """A step of a ladder: a recipe, what is changed in it, and in words what that is to show."""

    recipe: str
    what: str
    fields: dict[str, Any] = field(default_factory=dict)


STRIDED = {"widths": [64, 128, 256], "stride": 2}
PLAIN = "cifar10-fast/fgsm-rs"
SGD = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "model_args": STRIDED}
MUON = {**SGD, "optimizer": "muon", "lr": 0.05}
LADDERS: dict[int, dict[str, Rung]] = {
    60: {
        "small": Rung("cifar10-small/fgsm-rs", "cifar10-small", {"epochs": 1}),
        "fast-sgd": Rung(PLAIN, "the fast network, strided", SGD),
        "muon": Rung(PLAIN, "Muon, rate 0.05", MUON),
        "learned-stem": Rung(PLAIN, "Muon, first layer learned", {**MUON, "model_args": {**STRIDED, "whiten": False}}),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-robustness"), help="folder of the runs")
    parser.add_argument("--budget", type=int, choices=LADDERS, default=None, help="one ladder; default all")
    parser.add_argument("--steps", nargs="+", default=None, help="of it; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--autoattack", action="store_true", help="attack the steps with AutoAttack too")
    parser.add_argument("--out", type=Path, required=True, help="folder of JSON records")
    arguments = parser.parse_args()
    for budget in [arguments.budget] if arguments.budget else LADDERS:
        for name in arguments.steps or LADDERS[budget]:
            for seed in arguments.seeds:
                path = arguments.out / f"{budget}-{name}-{seed}.json"
                record = json.loads(path.read_text()) if path.exists() else {}
                run = arguments.work / path.stem
                if not record:
                    record = measured(budget, name, seed, run, arguments.data)
                    write_text(path, json.dumps(record, indent=1) + "\n")
                if arguments.autoattack and "autoattack" not in record:
                    record["autoattack"] = evaluate(
                        run / "model-last.safetensors",
                        suite="standard",
                        n=IMAGES,
                        search_precision="bf16",
                        device="cpu",
                    ).robust
                    write_text(path, json.dumps(record, indent=1) + "\n")
                print({k: record[k] for k in ("step", "seed", "clean", "pgd-20", "processor_seconds")}, flush=True)


def measured(budget: int, name: str, seed: int, run: Path, data: str) -> dict[str, Any]:
    """Train a step, and attack it."""
    rung = LADDERS[budget][name]
    every = {"data": data, "seed": seed, "device": "cpu", "val_size": 500, "eval_every": 1000, "watch_every": 0}
    recipe = load_recipe(rung.recipe, **{**rung.fields, **every})
    result = train(recipe, run, resume=run.exists(), progress=False)
    light = evaluate(run / "model-last.safetensors", **LIGHT, device="cpu", progress=False)
    return {
        "step": name,
        "what": rung.what,
        "budget": budget,
        "seed": seed,
        "processor_seconds": result.cost["training_processor_seconds"],
        "images": IMAGES,
        "clean": light.clean,
        "pgd-20": light.attacks["pgd-20"],
        "recipe": asdict(recipe),
        "cost": result.cost,
        "environment": environment("cpu"),
    }


if __name__ == "__main__":
    main()
