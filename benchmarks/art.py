"""Seconds per image beside the adversarial trainers of the Adversarial Robustness Toolbox (ART).

    python benchmarks/art.py --venv DIR --out benchmarks/results/DEVICE/art.json

FGSM-RS against ``AdversarialTrainerFBFPyTorch``, and PGD-AT with 7 steps against ``AdversarialTrainerMadryPGD``:
the same network, images, batch size and threads in one process, in turns. ART trains through its public ``fit`` on a
few batches, in fp32, which is all it offers on a CPU; data augmentation is on neither side. ART brings dependencies
that nothing else here needs, so it lives in an environment of its own, which is made in DIR if it is not there; it
needs no torchvision for this.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "adversarial-robustness-toolbox==1.20.1"
PAIRS = {"FBF": ("fgsm-rs", {}), "Madry PGD-7": ("pgd-at", {"steps": 7})}
TARGET = {"text": "fgsm-rs bf16 over FBF", "limit": 0.5}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="environment for ART, made if it does not exist")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=2, help="batches of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    if not installed():
        python = make_environment(arguments.venv)
        sys.exit(subprocess.call([python, str(Path(__file__).resolve()), *(argv or sys.argv[1:])]))
    record = compare(arguments.model, arguments.batch_size, arguments.batches, arguments.rounds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("seconds_per_image", "ratio_to_art")}, indent=1))


def installed() -> bool:
    """Whether ART is in this environment."""
    try:
        return bool(metadata.version("adversarial-robustness-toolbox"))
    except metadata.PackageNotFoundError:
        return False


def make_environment(folder: Path) -> Path:
    """Its Python, with this project and ART installed in the versions of the constraints file."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    constraints = str(ROOT / "constraints.txt")
    subprocess.check_call([python, "-m", "pip", "install", "-q", "-c", constraints, "-e", str(ROOT), PACKAGE])
    return python


def compare(model: str, batch_size: int, batches: int, rounds: int) -> dict[str, Any]:
    """The record: medians over the rounds, of which one more comes first to warm up."""
    os.environ["TQDM_DISABLE"] = "1"  # ART's progress bars
    import torch

    from benchmarks.timing import MethodStep, Workload, mean_seconds
    from headstart.runs.environment import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps: dict[str, Any] = {}
    for pair, (method, settings) in PAIRS.items():
        steps[f"ART {pair}"] = art_step(pair, Workload(device, model, batch_size), batches)
        for precision in ("fp32", "bf16"):
            workload = Workload(device, model, batch_size, bf16=precision == "bf16")
            steps[f"{method} {precision}"] = MethodStep(workload, method, settings)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for r in range(rounds + 1):
        for name, step in steps.items():
            turn = [0] if name.startswith("ART") else range(batches)  # ART makes all its updates in one call
            seconds = mean_seconds(step, turn, device) * len(turn)
            if r:
                times[name].append(seconds / (batches * batch_size))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        f"{method} {precision}": medians[f"{method} {precision}"] / medians[f"ART {pair}"]
        for pair, (method, _) in PAIRS.items()
        for precision in ("fp32", "bf16")
    }
    return {
        "model": model,
        "batch_size": batch_size,
        "batches": batches,
        "rounds": rounds,
        "seconds_per_image": medians,
        "ratio_to_art": ratios,
        "target": {**TARGET, "value": ratios["fgsm-rs bf16"], "met": ratios["fgsm-rs bf16"] <= TARGET["limit"]},
        "environment": {**environment(device), "art": metadata.version("adversarial-robustness-toolbox")},
    }


def art_step(pair: str, workload: Any, batches: int) -> Any:
    """One epoch of an ART trainer over ``batches`` batches; called like an update."""
    import numpy as np
    import torch
    from art.defences.trainer import AdversarialTrainerFBFPyTorch, AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    from benchmarks.timing import EPSILON, plain_network, sgd

    network = plain_network(workload)
    classifier = PyTorchClassifier(
        network,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=sgd(network.parameters()),
        input_shape=(3, workload.size, workload.size),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="gpu" if workload.device.type == "cuda" else "cpu",
    )
    if pair == "FBF":
        trainer = AdversarialTrainerFBFPyTorch(classifier, eps=EPSILON)
    else:
        trainer = AdversarialTrainerMadryPGD(classifier, eps=EPSILON, eps_step=EPSILON / 4, max_iter=7)
    x, y = workload.batch()
    images = np.concatenate([x.contiguous().cpu().numpy()] * batches)
    labels = np.concatenate([np.eye(10, dtype=np.float32)[y.cpu().numpy()]] * batches)
    return lambda _: trainer.fit(images, labels, batch_size=workload.batch_size, nb_epochs=1)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder, in which ``art`` is this file
    main()
