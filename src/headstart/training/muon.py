"""Muon: momentum whose matrices are orthogonalised before the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headstart.core.layers import output_layer

QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steepest at 0, so that few iterations do
ITERATIONS = 3  # as in airbench


class Muon(Optimizer):
    """Muon for filters and matrices, SGD for all else, both with Nesterov momentum and decoupled weight decay.

    m <- mu m + (1 - mu) g; u = (1 - mu) g + mu m; w <- (1 - lr wd) w - lr s O(u). O sets the singular values of u,
    as a matrix with a row per output, to about 1, and s = sqrt(max(1, rows / columns)). Without matrix O is
    u / (1 - mu), as in SGD. After Jordan et al., "Muon", 2024. ``torch.optim.Muon`` takes no convolutions.

    Args:
        module: whose parameters are trained. Matrices are its weights of two and of four dimensions, but those of the
            output layer.
        trained: its parameters, or groups of them with rates of their own.
        lr, momentum, weight_decay: of every group without its own.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: list[nn.Parameter] | list[dict[str, Any]],
        lr: float,
        *,
        momentum: float,
        weight_decay: float,
    ) -> None:
        found = output_layer(module)
        output = found[1].weight if found else None
        groups: list[dict[str, Any]] = []
        for given in trained if isinstance(trained[0], dict) else [{"params": trained}]:
            for orthogonal in (True, False):
                fitting = [p for p in given["params"] if (p.dim() in (2, 4) and p is not output) == orthogonal]
                groups.append({**given, "params": fitting, "orthogonal": orthogonal})
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient. Nothing in here waits for the device."""
        for group in self.param_groups:
            if weights := [p for p in group["params"] if p.grad is not None]:
                self._move(weights, [p.grad for p in weights], group)

    def _move(self, weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]  # the rate is a tensor where updates are recorded
        means = [self._mean(p) for p in weights]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        steps = list(torch._foreach_lerp(grads, means, momentum))
        if group["orthogonal"]:
            steps = [directed(step) for step in steps]
        else:
            torch._foreach_div_(steps, 1 - momentum)
        torch._foreach_mul_(steps, lr)
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_sub_(weights, steps)

    def _mean(self, p: Tensor) -> Tensor:
        """The momentum of a parameter."""
        if "momentum" not in self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        mean: Tensor = self.state[p]["momentum"]
        return mean


def directed(step: Tensor) -> Tensor:
    """s O(u) of a filter or matrix u, of its shape."""
    scale: float = max(1, len(step) / step[0].numel()) ** 0.5
    return orthogonalised(step.flatten(1)).view(step.shape).to(step.dtype) * scale


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (M, N) with its singular values at about 1, in bfloat16: Newton-Schulz iterations on it, normalised."""
    a, b, c = QUINTIC
    x = matrix.bfloat16()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
