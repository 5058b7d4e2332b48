"""Averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of weights and batch-norm statistics, in one call per update.

    The decay is min(decay, (1 + t) / (10 + t)) at the t-th update: without that warm-up the average stays near the
    initial weights for most of a short run, because batch-norm statistics change by orders of magnitude early on.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        averaged, live = self.module.state_dict(), module.state_dict()
        names = [n for n in live if live[n].is_floating_point()]
        self._pairs = [averaged[n] for n in names], [live[n] for n in names]
        self._counts = [(averaged[n], live[n]) for n in live if not live[n].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the live weights, which are read in place."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged, live = self._pairs
        torch._foreach_lerp_(averaged, live, 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor | int]:
        """Averaged weights and the number of updates."""
        for averaged, live in self._counts:
            averaged.copy_(live)
        return {"updates": self.updates, **{f"module.{n}": t for n, t in self.module.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore what ``state_dict`` returned."""
        self.updates = int(state["updates"])
        prefix = "module."
        self.module.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
