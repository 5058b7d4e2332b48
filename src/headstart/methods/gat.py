"""Single-step training guided by the change of the predicted probabilities."""

from __future__ import annotations

from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Clock
from headstart.core.target import BatchNormMode
from headstart.methods.registry import register
from headstart.parts.guided import guided


def squared_distance(logits: Tensor, other: Tensor) -> Tensor:
    """mean_i sum_k (p_ik - q_ik)^2, p and q the softmax of two batches of logits (B, K)."""
    return (logits.softmax(1) - other.softmax(1)).square().sum(1).mean()


@register("gat", source="Sriramanan et al., NeurIPS 2020", passes="3F 1Bx 2B")
def build(
    info: TaskInfo,
    weight: float = 10.0,
    jump: float = 4.0,
    jump_at: float = 0.85,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """GAT: clean cross-entropy, and a squared distance of probabilities that guides attack and training alike.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A = CE(f(x + delta0), y), on odd batches of
    an epoch + lambda * ||p(x) - p(x + delta0)||^2; loss CE(f(x), y) + lambda * ||p(x) - p(x + delta)||^2, means
    over the batch. FastAT Benchmark applies A's cross-entropy to probabilities on even batches; here, as in the
    authors' code, to logits. One clean pass serves attack and loss where the authors' code takes two.

    Args:
        weight: lambda; 10 for CIFAR-10, 20 for ImageNet-100.
        jump: factor on lambda in the last epochs; 4 for CIFAR-10, 7 for ImageNet-100.
        jump_at: share of the epochs after which it applies; 85 of 100 for CIFAR-10, 90 of 120 for ImageNet-100.
        relative_alpha: step size over epsilon.
        batch_norm: mode of the ascent pass; evaluation as published.
    """

    def lambda_at(clock: Clock) -> float:
        return weight * (jump if clock.epoch >= jump_at * clock.epochs else 1.0)

    return guided(
        squared_distance,
        lambda_at,
        relative_alpha=relative_alpha,
        label_smoothing=label_smoothing,
        batch_norm=batch_norm,
    )
