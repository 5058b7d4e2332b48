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


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Make these tensors those of the first process, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


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


class Vote:
    """Whether any process said yes in the round before: one small message per round, for which nobody waits."""

    def __init__(self) -> None:
        # gloo, since NCCL's messages would have to be read from the device.
        self.group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self.said: tuple[Tensor, dist.Work] | None = None

    def __call__(self, yes: bool) -> bool:
        """Say yes or no; the answer of the round before, the same on every process. Alone, one's own at once."""
        if self.group is None:
            return yes
        answer = False
        if self.said:
            flag, message = self.said
            message.wait()
            answer = bool(flag)
        flag = torch.tensor(float(yes))
        self.said = flag, dist.all_reduce(flag, group=self.group, async_op=True)
        return answer
