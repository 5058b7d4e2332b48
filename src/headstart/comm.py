"""The few collectives that state outside the network needs; no-ops on one process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_(tensor: Tensor) -> Tensor:
    """Sum over processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, (n * world_size, ...); row i of process r becomes i * world_size + r, as in the loader."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def mean_(tensors: Iterable[Tensor]) -> None:
    """Average floating-point tensors over processes, in place and in one call."""
    if world_size() == 1:
        return
    tensors = [t for t in tensors if t.is_floating_point()]
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for t, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        t.detach().copy_(mean.view_as(t))
