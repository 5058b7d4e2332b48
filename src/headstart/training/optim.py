"""Optimiser and learning-rate schedule, in exact integer updates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from headstart.errors import SettingError
from headstart.recipes.recipe import Recipe
from headstart.training.muon import Muon
from headstart.training.tuning import trained_parameters

MOVED = ("lr", "momentum", "betas")
"""What schedules move in an optimiser."""


def make_optimizer(recipe: Recipe, module: nn.Module) -> Optimizer:
    """The recipe's optimiser, fused where torch has it so: one kernel per update where the device has it."""
    parameters = trained_parameters(module, recipe)
    if recipe.optimizer == "muon":
        return Muon(module, parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)


class EpochSteps:
    """A schedule in epochs that is told of every update.

    Args:
        schedule: to be stepped at the end of every epoch but the last.
        updates_per_epoch: how many updates that is.
        epochs: of the run.
    """

    def __init__(self, schedule: LRScheduler, updates_per_epoch: int, epochs: int) -> None:
        self.schedule, self.updates_per_epoch, self.updates = schedule, updates_per_epoch, 0
        self.last = updates_per_epoch * epochs

    def step(self) -> None:
        """An update was made."""
        self.updates += 1
        if self.updates % self.updates_per_epoch == 0 and self.updates < self.last:
            self.schedule.step()

    def get_last_lr(self) -> list[float]:
        """Rates of the parameter groups now."""
        return [float(rate) for rate in self.schedule.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"updates": self.updates, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.updates = state["updates"]
        self.schedule.load_state_dict(state["schedule"])


def make_schedule(
    recipe: Recipe, optimizer: Optimizer, updates: int, updates_per_epoch: int
) -> LRScheduler | EpochSteps:
    """The recipe's schedule over ``updates`` updates; stepped once after each of them.

    one-cycle: cosine from lr/25 up to lr at ``peak`` and down to lr/250,000; momentum is constant, or cycled against
    the rate from 0.95 to 0.85 and back. triangular: linear from 0 up to lr at ``peak`` and down to 0 (never exactly 0
    at an update). multi-step: x 0.1 at the milestones. By epoch, all of it in steps of an epoch: one-cycle then
    reaches its peak in epoch ``peak`` times epochs, counted from 1, and its end in the last.
    """
    if recipe.schedule_by == "epoch":
        schedule = _schedule(recipe, optimizer, recipe.epochs, 1, last=recipe.epochs)
        return EpochSteps(schedule, updates_per_epoch, recipe.epochs)
    return _schedule(recipe, optimizer, updates, updates_per_epoch, last=updates + 1)


def _schedule(recipe: Recipe, optimizer: Optimizer, updates: int, updates_per_epoch: int, last: int) -> LRScheduler:
    if recipe.schedule == "one-cycle":
        cycled = recipe.cycle_momentum
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=last, pct_start=recipe.peak, cycle_momentum=cycled)
    if recipe.schedule == "multi-step":
        if late := [m for m in recipe.milestones if m >= recipe.epochs]:
            raise SettingError(
                f"milestone {late[0]} is not reached in {recipe.epochs} epochs; lower it or train longer"
            )
        return MultiStepLR(optimizer, [m * updates_per_epoch for m in recipe.milestones], gamma=0.1)
    if recipe.schedule == "triangular":
        top = recipe.peak * updates

        def triangle(update: int) -> float:
            return (update + 1) / (top + 1) if update < top else (updates - update) / (updates - top)

        return LambdaLR(optimizer, triangle)
    return LambdaLR(optimizer, lambda update: 1.0)


@contextmanager
def at_update(schedule: LRScheduler | EpochSteps, optimizer: Optimizer, updates: int) -> Iterator[None]:
    """Take a new schedule to where it is after so many updates; an optimiser's state loaded inside leaves it there.

    For a run whose length has changed since: its state knows the rates of the old schedule alone.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*lr_scheduler.step\(\)", UserWarning)  # no update was made, on purpose
        for _ in range(updates):
            schedule.step()
    moved = [{key: group[key] for key in MOVED if key in group} for group in optimizer.param_groups]
    yield
    for group, rates in zip(optimizer.param_groups, moved, strict=True):
        group.update(rates)
