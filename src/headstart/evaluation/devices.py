"""The devices and processes that share an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from headstart.core import distributed
from headstart.errors import SettingError, unknown
from headstart.runs.launch import check_cuda, launcher

T = TypeVar("T")


def pick_device(name: str) -> torch.device:
    """The device of that name; auto takes CUDA where there is one.

    Raises:
        SettingError: no such device, or none on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from error
    check_cuda(name)
    return device


def share(device: torch.device, devices: int) -> torch.device:
    """This process's device, once there are as many processes as asked for, or as torchrun or SLURM started.

    Raises:
        SettingError: more devices than the machine has.
    """
    started = launcher()
    devices, nodes = started[1:] if started else (devices, 1)
    if devices * nodes == 1 or distributed.world_size() > 1:
        return device
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise SettingError(f"devices is {devices}, but this machine has {torch.cuda.device_count()} CUDA devices")
    fabric = Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return fabric.device


def by_first(make: Callable[[], T]) -> T:
    """What ``make`` returns on the first process, for all of them; the others wait."""
    if distributed.world_size() == 1:
        return make()
    message = [make() if distributed.rank() == 0 else None]
    dist.broadcast_object_list(message, src=0)
    return cast(T, message[0])
