"""Averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of weights and batch-norm statistics, in one call per update.

    The decay is min(decay, (1 + t) / (10 + t)) at the t-th update: without that warm-up the average stays near the
    initial weights for most of a short run, because batch-norm statistics change by orders of magnitude early on.

    Args:
        decay: in the long run.
        warmup: False begins with the weights after the first update and the full decay, as FastAT Benchmark does.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.updates: int | Tensor = 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        averaged, live = self.module.state_dict(), module.state_dict()
        names = [n for n in live if live[n].is_floating_point()]
        self._pairs = [averaged[n] for n in names], [live[n] for n in names]
        self._counts = [(averaged[n], live[n]) for n in live if not live[n].is_floating_point()]

    @torch.no_grad()
    def update(self, enters: Tensor | None = None) -> None:
        """Move the average toward the live weights, which are read in place.

        Args:
            enters: whether it moves at all, a boolean tensor of shape () that stays on its device; None for yes.
        """
        averaged, live = self._pairs
        if enters is None:
            assert isinstance(self.updates, int), "a method's rule for the average holds for the whole run"
            torch._foreach_lerp_(averaged, live, 1 - self._decay_at(self.updates))
            self.updates += 1
            return
        t = self.updates if isinstance(self.updates, Tensor) else enters.new_full((), self.updates, dtype=torch.float32)
        decay = ((1 + t) / (10 + t)).clamp_max(self.decay) if self.warmup else self.decay * (t > 0)
        share = enters * (1 - decay)
        change = torch._foreach_sub(live, averaged)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(averaged, change)
        self.updates = t + enters

    def _decay_at(self, update: int) -> float:
        if self.warmup:
            return min(self.decay, (1 + update) / (10 + update))
        return self.decay if update else 0.0

    def refresh(self) -> None:
        """Take over what is counted rather than averaged; before the averaged module is written somewhere."""
        for averaged, live in self._counts:
            averaged.copy_(live)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Averaged weights and the number of updates."""
        self.refresh()
        return {"updates": int(self.updates), **{f"module.{n}": t for n, t in self.module.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore what ``state_dict`` returned."""
        self.updates = int(state["updates"])
        prefix = "module."
        self.module.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
