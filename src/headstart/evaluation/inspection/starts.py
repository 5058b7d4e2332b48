"""What the training method does to images: its start, its step and its final perturbation, as training went on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target, TaskInfo
from headstart.core.layers import output_layer
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError, UserError
from headstart.methods.registry import build_method
from headstart.parts.generator import GeneratorInit
from headstart.parts.memory import SampleMemory
from headstart.recipes.recipe import Recipe
from headstart.runs.checkpoint import load_state
from headstart.runs.folder import EVERY_EPOCH, RunFolder

EPOCHS = 4  # at most so many are shown


@dataclass(frozen=True)
class Start:
    """The perturbations of B images by a method as it stood at the end of an epoch.

    Attributes:
        epoch: epochs done.
        epsilon: the budget then in force.
        initial: delta0, (B, C, H, W); None for zero.
        final: delta, of the same shape.
    """

    epoch: int
    epsilon: float
    initial: Tensor | None
    final: Tensor

    @property
    def step(self) -> Tensor:
        """What the ascent changed."""
        return self.final if self.initial is None else self.final - self.initial

    @property
    def kept(self) -> float | None:
        """Share of the pixels that the ascent leaves on the side where the start had put them; None without one."""
        if self.initial is None:
            return None
        return (self.initial.sign() == self.final.sign()).float().mean().item()


def starts(folder: Path, recipe: Recipe, network: nn.Module, x: Tensor, y: Tensor) -> list[Start]:
    """The perturbations at kept epochs and at the end of the run, oldest first.

    Args:
        folder: of the run.
        recipe: of the run.
        network: of its kind, with any weights; it stays as it is.
        x: images as the run saw them, fp32 (B, C, H, W) in [0, 1]: B is best its batch size, since batch-norm is in
            training mode in most methods.
        y: labels, (B,).

    Raises:
        UserError: a method that has no perturbation to show for these images; the message says why.
    """
    network = copy.deepcopy(network).requires_grad_(True)
    return [_start(state, recipe, network, x, y) for state in _states(RunFolder(folder))]


def _states(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Some training states of the run, evenly over its epochs and the last among them."""
    kept = sorted(run.checkpoints.glob(EVERY_EPOCH)) or [run.last]
    if not kept[0].exists():
        raise SettingError(f"{run.path} has no checkpoints, which hold the state of the method")
    last = len(kept) - 1
    chosen = sorted({round(i * last / (EPOCHS - 1)) for i in range(EPOCHS)})
    return (load_state(kept[i]) for i in chosen)


def _start(state: dict[str, Any], recipe: Recipe, network: nn.Module, x: Tensor, y: Tensor) -> Start:
    clock = Clock(**state["clock"])
    threat = _threat_at(recipe, clock)
    method = _method(state, recipe, network, x)
    network.load_state_dict(state["network"])
    network.train()
    if isinstance(method.init, GeneratorInit):
        method.init.every = sys.maxsize  # it is looked at, not trained
    step = Step(x, y, threat, Clock(**(state["clock"] | {"batch": 1})))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        method.perturb(Target(network, ascent_batch_norm=recipe.ascent_batch_norm), step)
    if step.delta is None:
        raise SettingError(f"{recipe.method} perturbs no image")
    initial = None if step.delta0 is None else step.delta0.detach()
    return Start(clock.epoch, threat.epsilon, initial, step.delta.detach())


def _threat_at(recipe: Recipe, clock: Clock) -> ThreatModel:
    """The threat model of the last update before this clock."""
    ramp = recipe.epsilon_ramp
    return ThreatModel(float(recipe.epsilon) * (min(1.0, clock.fraction / ramp) if ramp else 1.0), recipe.norm)


def _method(state: dict[str, Any], recipe: Recipe, network: nn.Module, x: Tensor) -> Method:
    """The method with its state."""
    clock, output = Clock(**state["clock"]), output_layer(network)
    with torch.no_grad():
        classes = network.eval()(x[:1]).shape[1]
    shape = (x.shape[1], x.shape[2], x.shape[3])
    features = output[1].in_features if output else 0
    threat = ThreatModel(float(recipe.epsilon), recipe.norm)
    info = TaskInfo(classes, shape, threat, len(x), len(x), clock.updates, clock.epochs, features)
    method = build_method(recipe.method, info, recipe.method_args)
    if any(isinstance(part, SampleMemory) for part in method.modules()):
        raise SettingError(
            f"{recipe.method} starts from what it remembers of each training image; test images have none"
        )
    try:
        method.load_state_dict(state["method"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{recipe.method} cannot be restored for these images") from error
    return method
