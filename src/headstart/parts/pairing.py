"""Logit pairing: the logits before and after the step are held together, as in FGSM-PGI, FGSM-UAP and LIET."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import GraphKey, Init, Loss, Method
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import Criterion, cross_entropy


class LogitPairing(Loss):
    """criterion(f(x + delta), y) + lambda * divergence(f(x + delta), f(x + delta0)); both logits are differentiated.

    Args:
        criterion: logits (B, K) and labels (B,) to a scalar.
        divergence: logits at x + delta and at x + delta0, both (B, K), to a scalar.
        weight: lambda.
        ramp: lambda grows linearly over the run: epoch e of E has lambda * (e + 1) / E.
    """

    needs = frozenset({"logits0"})

    def __init__(self, criterion: Criterion, divergence: Criterion, weight: float, *, ramp: bool = False) -> None:
        super().__init__()
        self.criterion, self.divergence, self.weight, self.ramp = criterion, divergence, weight, ramp

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        assert step.logits0 is not None
        return self.criterion(step.logits, step.y) + self.weight_now(step) * self.divergence(step.logits, step.logits0)

    def weight_now(self, step: Step) -> float:
        """lambda of this epoch."""
        return self.weight * ((step.clock.epoch + 1) / step.clock.epochs if self.ramp else 1.0)

    def graph_key(self, step: Step) -> GraphKey:
        return (self.weight_now(step),)


def paired(
    init: Init, weight: float, relative_alpha: float, label_smoothing: float, *, box_start: bool = False
) -> Method:
    """One sign step from ``init`` and the loss CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)).

    The step raises CE_s too; the MSE is that of logits, both differentiated, lambda = ``weight``.
    """
    criterion = partial(cross_entropy, label_smoothing=label_smoothing)
    ascent = SignSteps(relative_alpha, box_start=box_start, label_smoothing=label_smoothing)
    return Method(init, ascent, LogitPairing(criterion, F.mse_loss, weight))
