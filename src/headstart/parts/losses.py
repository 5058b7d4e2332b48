"""Losses of the weight update."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import Loss
from headstart.core.step import Step
from headstart.core.target import Target


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy with target (1 - s) * onehot + s / K."""
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)


def smoothing_of(true_weight: float, classes: int) -> float:
    """The label smoothing s that leaves ``true_weight`` on the true class and spreads the rest over the others."""
    return (1 - true_weight) * classes / (classes - 1)


class CrossEntropy(Loss):
    """Cross-entropy at x + delta."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        return cross_entropy(step.logits, step.y, self.label_smoothing)
