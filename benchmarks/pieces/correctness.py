"""Whether the methods do on this device what they do on the CPU."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.pieces.context import Context
from benchmarks.timing import Workload, method_step
from headstart.core.threat import LInf
from headstart.methods.registry import methods

ROOT = Path(__file__).resolve().parents[2]


def contracts(context: Context) -> dict[str, Any]:
    """The contract tests and those marked for a GPU, run on this machine; they need the extra ``dev``."""
    chosen = (
        ["tests/contracts/test_methods.py", "-k", "fgsm-rs"] if context.tiny else ["tests/contracts", "tests/attacks"]
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return {
        "passed": done.returncode == 0,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
    }


def correctness(context: Context) -> dict[str, Any]:
    """Losses of three updates of every method in fp32 without TF32, on the CPU and on the device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    draw, rows = LInf.uniform, {}
    LInf.uniform = lambda self, like, *given: draw(self, like.cpu(), *given).to(like.device)  # type: ignore[method-assign]
    try:
        for name in methods():
            losses = []
            for device in ("cpu", str(context.device)):
                step = method_step(Workload(torch.device(device), "small", 8 if context.tiny else 64), name)
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


def graphs(context: Context) -> dict[str, Any]:
    """Losses of 50 updates, eager and replayed as CUDA graphs, of every method that gives a graph key."""
    rows = {}
    batch_size, updates = (8, 3) if context.tiny else (64, 50)
    with torch.cuda.stream(torch.cuda.Stream()) if context.device.type == "cuda" else nullcontext():
        for name in methods():
            probe = method_step(Workload(context.device, "small", batch_size), name)
            if probe.graph_key() is None:
                continue
            losses = []
            for replayed in (False, True):
                workload = Workload(context.device, "small", batch_size, graphs=replayed and not context.tiny)
                step = method_step(workload, name)
                torch.manual_seed(1)
                losses.append([float(step(k)) for k in range(updates)])
            recorded = step.updater.graphs.recordings if step.updater.graphs else {}
            difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
            rows[name] = {"recordings": len(recorded), "largest_difference": difference, "last_loss": losses[0][-1]}
    return {"methods": rows}
