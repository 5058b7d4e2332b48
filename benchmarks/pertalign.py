"""Does PertAlign fall before the accuracies tell of a collapse? Plain FGSM on digits, looked at every few updates.

    python benchmarks/pertalign.py --out benchmarks/results/DEVICE/pertalign.json --seeds 0 1 2

Of every update PertAlign as SORA's authors measure it: the gradient of the attack against that of the weight update's
own backward, averaged over the last updates. At every look the same number, and clean, FGSM and PGD-10 accuracy, on
the validation images. The collapse is the first look that ``attacks.collapse.collapsed`` calls one.

The threshold is set on the first seed alone: the largest multiple of 0.01 below which PertAlign of N-FGSM, which does
not collapse, never fell. The gap warns at the first look at which PGD no longer keeps half of the FGSM accuracy, where
the guard stops calling a network sound. ``lead`` is the number of updates from a warning to the collapse. A warning in
a run without a collapse is a false one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from headstart.api import train
from headstart.attacks.alignment import cosine, pert_align
from headstart.attacks.collapse import collapsed
from headstart.core import Method, Step, Target, TaskInfo
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform, Zero
from headstart.parts.losses import CrossEntropy
from headstart.runs.environment import environment
from headstart.training.guard import SOUND_RATIO
from headstart.training.train import Trainer

EVERY = 3  # updates between looks; an epoch of digits has 18
WINDOW = 9  # updates over which PertAlign of the training is averaged
GRID = 0.01
EPOCHS = 40
METHODS = ("fgsm", "n-fgsm")
SIGNALS = ("training", "validation")


class Recorded(SignSteps):
    """A sign step that records PertAlign of every update, at no further pass."""

    def __init__(self, relative_alpha: float, *, project: bool = True) -> None:
        super().__init__(relative_alpha, project=project)
        self.seen: list[float] = []

    def forward(self, target: Target, step: Step) -> Tensor:
        delta = super().forward(target, step)
        assert delta is not None
        return delta.detach().requires_grad_()

    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        assert step.delta is not None
        assert step.delta.grad is not None
        self.seen.append(cosine(step.grad0, step.delta.grad).mean().item())


@register("recorded-fgsm", source="-", passes="2F 1Bx 1B")
def fgsm(info: TaskInfo) -> Method:
    """FGSM, watched."""
    return Method(Zero(), Recorded(1.0), CrossEntropy())


@register("recorded-n-fgsm", source="-", passes="2F 1Bx 1B")
def n_fgsm(info: TaskInfo) -> Method:
    """N-FGSM, watched."""
    return Method(Uniform(2.0), Recorded(1.0, project=False), CrossEntropy())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    looks = {(name, seed): watch(name, seed, arguments.epochs) for seed in arguments.seeds for name in METHODS}
    calm = looks["n-fgsm", arguments.seeds[0]]
    thresholds = {signal: threshold(calm, signal) for signal in SIGNALS}
    runs = []
    for (name, seed), seen in looks.items():
        runs.append({"method": name, "seed": seed, **judged(seen, thresholds)})
        print(json.dumps(runs[-1]), flush=True)
        runs[-1]["looks"] = {key: [round(look[key], 4) for look in seen] for key in seen[0]}
    record = {
        "recipe": "digits/fgsm",
        "epochs": arguments.epochs,
        "looks_every": EVERY,
        "window": WINDOW,
        "threshold_from": {"method": "n-fgsm", "seed": arguments.seeds[0]},
        "thresholds": thresholds,
        "runs": runs,
        "environment": environment(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record) + "\n")


def watch(name: str, seed: int, epochs: int) -> list[dict[str, float]]:
    """Train by the digits' recipe; what was seen at every look."""
    looks: list[dict[str, float]] = []
    update = Trainer.update

    def watched(trainer: Trainer, *arguments: Any) -> None:
        update(trainer, *arguments)
        done = trainer.clock.update
        if done % EVERY:
            return
        threat, monitor = trainer.learner.threat_at(trainer.clock), trainer.monitor
        ascent = trainer.learner.method.ascent
        assert isinstance(ascent, Recorded)
        network = trainer.learner.network
        network.eval()
        x = monitor.images.float() / 255
        validation = pert_align(network, x, monitor.labels, threat).mean().item()
        measured = monitor.measure(network, threat)
        training = statistics.fmean(ascent.seen[-WINDOW:])
        row = {"update": done, "epsilon": threat.epsilon, "training": training, "validation": validation}
        looks.append(row | {key: measured[key] for key in ("clean", "fgsm", "pgd")})

    with tempfile.TemporaryDirectory() as folder, patch.object(Trainer, "update", watched):
        fields: dict[str, Any] = {"method": f"recorded-{name}", "seed": seed, "epochs": epochs, "device": "cpu"}
        train("digits/fgsm", Path(folder) / "run", progress=False, on_collapse="warn", **fields)
    return looks


def first(looks: list[dict[str, float]], event: Any) -> int | None:
    """The update of the first look at which ``event`` is true."""
    return next((int(look["update"]) for look in looks if event(look)), None)


def is_sound(look: dict[str, float]) -> bool:
    """What the guard would still go back to."""
    return look["pgd"] >= SOUND_RATIO * look["fgsm"]


def threshold(looks: list[dict[str, float]], signal: str) -> float:
    """The largest multiple of GRID below the signal at all looks."""
    return GRID * math.floor(min(look[signal] for look in looks) / GRID)


def judged(looks: list[dict[str, float]], thresholds: dict[str, float]) -> dict[str, Any]:
    """When the run collapsed and who warned of it when; leads are None without a collapse or a warning before it."""
    collapse = first(looks, collapsed)
    warned = {signal: first(looks, lambda look, s=signal: look[s] < thresholds[s]) for signal in SIGNALS}
    warned["gap"] = first(looks, lambda look: not is_sound(look))
    lead = {who: collapse - at if collapse and at and at <= collapse else None for who, at in warned.items()}
    return {"collapse": collapse, "warned": warned, "lead": lead}


if __name__ == "__main__":
    main()
