"""An attack with its verdicts: searched on one version of the model, judged on the model itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from headstart.evaluation.precision import float32
from headstart.evaluation.suites import ATTACKS, BatchAttack, Task
from headstart.evaluation.verdict import Verdict, inside, judge


def near_miss(believed: Verdict, verdict: Verdict) -> Tensor:
    """Which images the search may have failed to break by rounding alone, bool (B,).

    They are nearer to another class than the largest rounding in this batch, or across the border where it searched.

    Args:
        believed: of the version that was searched on.
        verdict: of the model itself, on the same examples.
    """
    rounding = (believed.margin - verdict.margin).abs().nan_to_num(0, 0, 0)
    return verdict.right & ((verdict.margin > -rounding.max()) | ~believed.right)


class Attacker:
    """One attack of a suite, on batches.

    Args:
        name: in ``ATTACKS``.
        model: the model that is evaluated.
        task: with the version of the model on which the attack searches.
        tf32: let it search with TF32 products on CUDA.
    """

    def __init__(self, name: str, model: nn.Module, task: Task, tf32: bool) -> None:
        self.name, self.model, self.task, self.tf32 = name, model, task, tf32
        self.exact = task.model is model and not tf32
        self.search = ATTACKS[name].prepare(task)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, seed: int) -> Verdict:
        """Attack images (B, C, H, W) with labels (B,); ``seed`` is that of the batch."""
        with float32(x.device, tf32=self.tf32):
            x_adv = self._search(self.search, x, y, seed)
            believed = None if self.exact else judge(self.task.model, x_adv, y)
        verdict = judge(self.model, x_adv, y)
        if believed is not None:
            denied = near_miss(believed, verdict).nonzero().squeeze(1)
            if len(denied):
                strict = ATTACKS[self.name].prepare(replace(self.task, model=self.model, judge=None, slot=None))
                again = self._search(strict, x[denied], y[denied], seed)
                verdict.replace(denied, judge(self.model, again, y[denied]))
        return verdict

    def _search(self, attack: BatchAttack, x: Tensor, y: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)  # of attacks that use the global generators, and of random models
        return inside(self.task.threat, x, attack(x, y, Generator(x.device).manual_seed(seed)))
