"""A small training struck by a fault at a random moment, again and again; each time it resumes and must end the same.

    python benchmarks/faults.py --out benchmarks/results/DEVICE/faults.json --faults 50

Every trial begins a run in a process of its own, strikes it once, resumes it here to the end, and compares weights,
selected weights and metrics bit for bit with a run that was left alone. The faults take turns:

    killed              SIGKILL
    killed in a save    SIGKILL with half of a checkpoint written, or before one of its two renames
    full disk           no file may grow beyond a random size from then on (RLIMIT_FSIZE); exits with 2
    damaged checkpoint  SIGKILL, then last.pt is cut off at a random length: the one before it takes over
    SIGTERM, SIGINT     the run saves its state and exits with 130
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from headstart.api import train
from headstart.errors import Interrupted, UserError
from headstart.runs.environment import environment
from headstart.runs.store import RunStore
from headstart.training.train import Trainer

CHECKPOINT_EVERY = 5
SMALLER_THAN_A_CHECKPOINT = 20_000  # bytes
RECIPE = "digits/fgsm-sdi"
SETTINGS: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 128,
    "val_size": 100,
    "average": 0.9,
    "model_args": {"widths": [4, 8]},
    "method_args": {"generator_width": 4},
    "checkpoint_every": CHECKPOINT_EVERY,
    "device": "cpu",
}
KINDS = ("killed", "killed in a save", "full disk", "damaged checkpoint", "SIGTERM", "SIGINT")
EXITS = {"SIGTERM": 130, "SIGINT": 130, "full disk": 2}  # the others: killed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        updates = int(train(RECIPE, whole, progress=False, **SETTINGS).cost["updates"])
        expected = outcome(whole)
        trials = []
        for k in range(arguments.faults):
            trials.append(trial(Path(folder) / str(k), KINDS[k % len(KINDS)], draw, updates, expected))
            print(trials[-1], flush=True)
    record = {
        "recipe": RECIPE,
        "settings": SETTINGS,
        "updates": updates,
        "faults": len(trials),
        "equal": sum(t["equal"] for t in trials),
        "most_updates_lost": {
            kind: max(t["lost"] for t in trials if t["kind"] == kind) for kind in KINDS[: len(trials)]
        },
        "trials": trials,
        "environment": environment(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['equal']} of {len(trials)} ended as the run that was left alone; record: {arguments.out}")
    return 0 if record["equal"] == len(trials) else 1


def trial(run: Path, kind: str, draw: random.Random, updates: int, expected: dict[str, Any]) -> dict[str, Any]:
    """Strike a run once, resume it to the end, and say what was lost and whether the end is the expected one."""
    note = Path(f"{run}.json")
    strike = {"kind": kind, "share": draw.random(), "chance": draw.random(), "updates": updates, "note": str(note)}
    command = [sys.executable, __file__, "--strike", json.dumps(strike), str(run)]
    code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL).returncode
    if code != EXITS.get(kind, -signal.SIGKILL):
        raise RuntimeError(f"{kind}: the training ended with {code}")
    struck = json.loads(note.read_text())["update"]
    last, previous = (run / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    if kind == "damaged checkpoint" and previous.exists():  # of a first and only checkpoint nothing could take over
        os.truncate(last, int(draw.random() * last.stat().st_size))
    kept = newest_update(run)
    train(RECIPE, run, resume=True, progress=False, **SETTINGS)
    equal = outcome(run) == expected
    return {"kind": kind, "update": struck, "kept": kept, "lost": struck - kept, "exit_code": code, "equal": equal}


def newest_update(run: Path) -> int:
    """The update of the newest checkpoint that can be read; 0 before the first."""
    state = RunStore(run).load()
    return state["clock"]["update"] if state else 0


def outcome(run: Path) -> dict[str, Any]:
    """Every bit of both networks, and the metrics."""
    found: dict[str, Any] = {"metrics": (run / "metrics.jsonl").read_text()}
    for name in ("model-last.safetensors", "model.safetensors"):
        found |= {f"{name}: {key}": tensor.tobytes() for key, tensor in load_file(run / name).items()}
    return found


# -- in the process that is struck -------------------------------------------------------------------------------------


def struck_training(strike: dict[str, Any], run: Path) -> int:
    """Train with the fault on its way; the exit code of the command."""
    torch.set_num_threads(1)
    fit = Trainer.fit

    def fit_under_threat(self: Trainer, progress: bool = True) -> Any:
        def note() -> None:
            """Leave word of where the training is."""
            Path(strike["note"]).write_text(json.dumps({"update": self.clock.update}))

        (arm_saves if strike["kind"] == "killed in a save" else arm_updates)(strike, note)
        try:
            return fit(self, progress)
        finally:
            note()

    Trainer.fit = fit_under_threat  # type: ignore[method-assign]
    try:
        train(RECIPE, run, progress=False, **SETTINGS)
    except Interrupted:
        return 130
    except UserError:
        return 2
    return 0


def arm_updates(strike: dict[str, Any], note: Callable[[], None]) -> None:
    """Let the fault strike at a random moment after a random update."""
    update = Trainer.update
    due = int(strike["share"] * (strike["updates"] - 2 * CHECKPOINT_EVERY))

    def update_under_threat(self: Trainer, batch: Any) -> None:
        if self.clock.update == due:
            # From another thread, so that it strikes anywhere: in an update, the validation, a save.
            threading.Timer(strike["chance"] * 0.05, lambda: inflict(strike, note)).start()
        update(self, batch)

    Trainer.update = update_under_threat  # type: ignore[method-assign]


def inflict(strike: dict[str, Any], note: Callable[[], None]) -> None:
    """The fault itself."""
    if strike["kind"] == "full disk":
        limit = int(strike["chance"] * SMALLER_THAN_A_CHECKPOINT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return
    note()
    os.kill(os.getpid(), {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}.get(strike["kind"], signal.SIGKILL))


def arm_saves(strike: dict[str, Any], note: Callable[[], None]) -> None:
    """Kill in a random checkpoint: with half of it written, or before one of its two renames."""
    save, rename = torch.save, os.replace
    due = 1 + int(strike["share"] * (strike["updates"] // CHECKPOINT_EVERY))
    saves, renames = 0, 0

    def die() -> None:
        note()
        os.kill(os.getpid(), signal.SIGKILL)

    def half_a_save(state: Any, path: str) -> None:
        nonlocal saves, renames
        saves, renames = saves + 1, 0
        if saves == due and strike["chance"] < 0.5:
            whole = io.BytesIO()
            save(state, whole)
            Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
            die()
        save(state, path)

    def no_rename(old: Any, new: Any) -> None:
        nonlocal renames
        renames += 1
        if saves == due and renames == (1 if strike["chance"] < 0.75 else 2):
            die()
        rename(old, new)

    torch.save = half_a_save  # type: ignore[assignment]
    os.replace = no_rename  # type: ignore[assignment]


if __name__ == "__main__":
    if sys.argv[1] == "--strike":
        sys.exit(struck_training(json.loads(sys.argv[2]), Path(sys.argv[3])))
    sys.exit(main())
