"""Losses of the weight update."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.core.method import Loss
from headstart.core.step import Step
from headstart.core.target import Target

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy with target (1 - s) * onehot + s / K."""
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)


def smoothing_of(true_weight: float, classes: int) -> float:
    """The label smoothing s that leaves ``true_weight`` on the true class and spreads the rest over the others."""
    return (1 - true_weight) * classes / (classes - 1)


class CrossEntropy(Loss):
    """Cross-entropy at x + delta."""

    clock_free = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        return cross_entropy(step.logits, step.y, self.label_smoothing)


def jensen_shannon(logits: Tensor, other: Tensor) -> Tensor:
    """Mean over the batch of (KL(p, m) + KL(q, m)) / 2 in nats, m = (p + q) / 2, of two batches of logits (B, K)."""
    log_p, log_q = logits.log_softmax(1), other.log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    kl = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    return (kl + F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)) / 2


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(p || q) in nats of each sample, (B,), p and q the softmax of two batches of logits (B, K)."""
    return F.kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True).sum(1)
