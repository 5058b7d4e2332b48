"""FGSM-SDI on real CIFAR-10, interrupted by a signal and by kill -9, against the uninterrupted run; then AutoAttack.

    python benchmarks/interruptions.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE/interruptions.json

Trains a network half as wide as the recipe's twice with FGSM-SDI, once interrupted, compares the final weights bit for
bit, trains it plainly once, and attacks both networks. Two runs go side by side on one thread each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from headstart.evaluation.result import PER_IMAGE
from headstart.runs.environment import environment

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--n", type=int, default=500, help="test images under attack")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    arguments = parser.parse_args()
    common = [
        "--model_args.widths",
        "[16,32,64]",
        "--data",
        arguments.data,
        "--epochs",
        str(arguments.epochs),
        "--checkpoint_every",
        "50",
    ]
    with tempfile.TemporaryDirectory() as folder:
        whole, broken, plain = (Path(folder) / name for name in ("whole", "broken", "plain"))
        sdi = ["train", "cifar10-small/fgsm-sdi", *common]
        with ThreadPoolExecutor(2) as pool:
            uninterrupted = pool.submit(headstart, *sdi, "--out", str(whole))
            codes = pool.submit(interrupted_twice, [*sdi, "--out", str(broken)], broken).result()
            uninterrupted.result()
        headstart("train", "cifar10-small/standard", *common, "--out", str(plain))
        record: dict[str, Any] = {
            "epochs": arguments.epochs,
            "exit_codes": {"SIGTERM": codes[0], "SIGKILL": codes[1]},
            "weights": {run.name: digest(run / "model-last.safetensors") for run in (whole, broken)},
            "metrics_equal": (whole / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text(),
        }
        record["equal"] = record["weights"]["whole"] == record["weights"]["broken"]
        for run in (whole, plain):
            headstart("evaluate", str(run), "--n", str(arguments.n), "--seed", "0")
            result = json.loads((run / "evaluation.json").read_text())
            result = {key: value for key, value in result.items() if key not in PER_IMAGE}
            record[f"evaluation of {'fgsm-sdi' if run is whole else 'standard'}"] = result
            record[f"cost of {'fgsm-sdi' if run is whole else 'standard'}"] = json.loads(
                (run / "cost.json").read_text()
            )
    record["environment"] = environment()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"same final weights: {record['equal']}; record: {arguments.out}")


def headstart(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "headstart", *arguments], check=True, env=ENVIRONMENT)


def interrupted_twice(arguments: list[str], run: Path) -> tuple[int, int]:
    """Train with a SIGTERM, resume into a SIGKILL, resume to the end; the exit codes of the first two."""
    ended = interrupted(arguments, run, signal.SIGTERM)
    killed = interrupted([*arguments, "--resume"], run, signal.SIGKILL)
    headstart(*arguments, "--resume")
    return ended, killed


def interrupted(arguments: list[str], run: Path, number: signal.Signals) -> int:
    """Start a training, wait for a checkpoint of its own and a little longer, send the signal; the exit code."""
    last = run / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    process = subprocess.Popen([sys.executable, "-m", "headstart", *arguments], env=ENVIRONMENT)
    while not last.exists() or last.stat().st_mtime_ns == before:
        if process.poll() is not None:
            raise RuntimeError(f"training ended with {process.returncode} before its first checkpoint")
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(number)
    return process.wait()


def digest(path: Path) -> str:
    """Of the tensors; the order of the metadata in a safetensors file is not fixed."""
    content = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        content.update(name.encode() + tensor.numpy().tobytes())
    return content.hexdigest()[:16]


if __name__ == "__main__":
    main()
