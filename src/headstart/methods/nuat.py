"""Single-step training guided by the nuclear norm of the change of the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headstart.core.method import Method, TaskInfo
from headstart.core.step import Clock
from headstart.core.target import BatchNormMode
from headstart.errors import UserError
from headstart.methods.registry import register
from headstart.parts.guided import guided


def nuclear_distance(logits: Tensor, other: Tensor) -> Tensor:
    """||D||_* / B, D the difference of two batches of logits (B, K); the derivative of ||D||_* is U V^T."""
    difference = logits - other
    return (difference * polar_factor(difference.detach())).sum() / len(logits)


def polar_factor(matrix: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T, without the host synchronisation that torch's has.

    Weighted Halley iteration (Nakatsukasa, Bai, Gygi, SIAM J. Matrix Anal. Appl. 31, 2010) in double precision: a
    fixed number of steps takes every singular value above ``low`` times the largest to 1. Exact zeros stay 0.
    """
    tall = matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().mT
    x = tall / torch.linalg.matrix_norm(tall).clamp_min(torch.finfo(torch.float32).tiny)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    low = 1e-7
    for _ in range(6):
        d = (4 * (1 / low**2 - 1) / low**2) ** (1 / 3)
        a = math.sqrt(1 + d) + math.sqrt(2 - d + 2 * (2 / low**2 - 1) / math.sqrt(1 + d))
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        factor, _ = torch.linalg.cholesky_ex(identity + c * x.mT @ x)
        x = b / c * x + (a - b / c) * torch.cholesky_solve(x.mT, factor).mT
        low = min(low * (a + b * low**2) / (1 + c * low**2), 1.0)
    polar: Tensor = x if x.shape == matrix.shape else x.mT
    return polar.to(matrix.dtype)


@register("nuat", source="Sriramanan et al., NeurIPS 2021", passes="3F 1Bx 2B")
def build(
    info: TaskInfo,
    weight: float = 4.5,
    ramp: float = 0.9,
    relative_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    batch_norm: BatchNormMode = "eval",
) -> Method:
    """NuAT: clean cross-entropy, and a nuclear norm of logit differences that guides attack and training alike.

    delta0 = box(+-epsilon/2); delta = P(delta0 + alpha * sign grad A), A = CE(f(x + delta0), y), on odd batches of
    an epoch + lambda_e * ||f(x) - f(x + delta0)||_* / B; loss CE(f(x), y) + lambda_e * ||f(x) - f(x + delta)||_* / B.
    B is the true batch size; the published code divides the last, smaller batch by the nominal one. One clean pass
    serves attack and loss where it takes two.

    Args:
        weight: largest lambda; 4.5 published, 4 in the variant with averaged weights and in FastAT Benchmark.
        ramp: share of the E epochs over which lambda_e rises from 0, lambda_e = weight * min(e / (ramp * E), 1) in
            epoch e. Published: 90 of 100 epochs; all of them in the variant with averaged weights.
        relative_alpha: step size over epsilon.
        batch_norm: mode of the ascent pass; "eval" as in the authors' code, FastAT Benchmark's is "train".
    """
    if not 0 < ramp <= 1:
        raise UserError(f"ramp is {ramp}; it must be a share of the epochs, above 0 and at most 1")

    def lambda_at(clock: Clock) -> float:
        return weight * min(clock.epoch / (ramp * clock.epochs), 1.0)

    return guided(
        nuclear_distance,
        lambda_at,
        relative_alpha=relative_alpha,
        label_smoothing=label_smoothing,
        batch_norm=batch_norm,
    )
