"""Optimiser and learning-rate schedule, in exact integer updates."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from headstart.errors import SettingError
from headstart.recipes.recipe import Recipe


def make_optimizer(recipe: Recipe, module: nn.Module) -> Optimizer:
    """The recipe's optimiser, fused: one kernel per update where the device has it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def make_schedule(recipe: Recipe, optimizer: Optimizer, updates: int, updates_per_epoch: int) -> LRScheduler:
    """The recipe's schedule over ``updates`` updates; stepped once after each of them.

    one-cycle: cosine from lr/25 up to lr at ``peak`` and down to lr/250,000, momentum constant. triangular: linear
    from 0 up to lr at ``peak`` and down to 0 (never exactly 0 at an update). multi-step: x 0.1 at the milestones.
    """
    if recipe.schedule == "one-cycle":
        return OneCycleLR(optimizer, recipe.lr, total_steps=updates + 1, pct_start=recipe.peak, cycle_momentum=False)
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
