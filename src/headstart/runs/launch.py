"""Processes and devices of a run, and how it is told to stop."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from headstart.core import distributed
from headstart.errors import LostProcess, OutOfMemory, SettingError, StorageError
from headstart.recipes.recipe import Recipe
from headstart.runs.folder import RunFolder
from headstart.runs.loggers import make_loggers

CANNOT_WRITE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR,
}  # fmt: skip


def launcher() -> tuple[str, int, int] | None:
    """torchrun or SLURM with its numbers of processes per node and of nodes, where one started this process."""
    if TorchElasticEnvironment.detect():
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return "torchrun", local, world // local
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return "SLURM", int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None


def launched(recipe: Recipe) -> Recipe:
    """The recipe with the numbers of processes and nodes of the launcher, if there is one.

    Raises:
        SettingError: the recipe says other numbers.
    """
    started = launcher()
    if started is None:
        return recipe
    name, devices, nodes = started
    if (recipe.devices, recipe.num_nodes) not in ((1, 1), (devices, nodes)):
        raise SettingError(
            f"{name} started {devices} processes on each of {nodes} nodes, but devices is {recipe.devices} and "
            f"num_nodes {recipe.num_nodes}; leave both out"
        )
    return replace(recipe, devices=devices, num_nodes=nodes)


def make_fabric(recipe: Recipe, out: Path) -> Fabric:
    """Devices and processes. Fabric's own precision stays 32-true: Target opens the autocast, see there."""
    _check_devices(recipe)
    kind, _, index = recipe.device.partition(":")
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(kind, kind)
    processes = recipe.devices * recipe.num_nodes
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else recipe.devices,
        num_nodes=recipe.num_nodes,
        strategy="ddp" if processes > 1 else "auto",
        loggers=make_loggers(recipe, RunFolder(out)),
    )
    fabric.launch()
    return fabric


def check_cuda(device: str) -> None:
    """See that this machine has the CUDA device of that name.

    Raises:
        SettingError: it has not.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return
    if not torch.cuda.is_available():
        raise SettingError(f"device {device} is not available on this machine; use device cpu")
    if index and int(index) >= (found := torch.cuda.device_count()):
        raise SettingError(f"device {device} is not on this machine, which has cuda:0 to cuda:{found - 1}")


def _check_devices(recipe: Recipe) -> None:
    """Refuse what the devices here cannot do."""
    check_cuda(recipe.device)
    found = torch.cuda.device_count() if recipe.device != "cpu" else 0
    if 0 < found < recipe.devices:
        raise SettingError(f"devices is {recipe.devices}, but this machine has {found} CUDA devices")
    if recipe.sync_batch_norm and not found:
        raise SettingError("sync_batch_norm needs CUDA devices; torch's synchronised batch-norm runs on no CPU")


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, torch refuses algorithms that may give another result the next time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def explained(recipe: Recipe, out: Path) -> Iterator[None]:
    """What goes wrong inside for reasons outside, said in a line.

    Raises:
        OutOfMemory: too little memory on the device.
        StorageError: a full or unwritable disk.
        LostProcess: another process of the run has ended.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        fewer = 2 * recipe.accumulate
        raise OutOfMemory(
            f"out of memory at batch_size {recipe.batch_size}; try accumulate {fewer}, or batch_size "
            f"{max(1, recipe.batch_size // 2)}"
        ) from error
    except RuntimeError as error:
        if not _is_about_processes(error):
            raise
        raise LostProcess(
            f"process {distributed.rank()} lost another process of the run, which has ended or cannot be reached; "
            f"resume continues {out} from its last checkpoint"
        ) from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise StorageError(f"cannot write to {out} ({error}); what was saved before is untouched") from error


def _is_about_processes(error: RuntimeError) -> bool:
    """Whether a message to another process failed; gloo reports that as a plain RuntimeError."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


class StopSignal:
    """Whether SIGINT or SIGTERM asked the run to stop; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._vote = distributed.Vote()

    def agreed(self) -> bool:
        """Whether all processes stop here, since one was asked to; called by all of them after every batch."""
        return self._vote(self.asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the two signals only leave word here."""

        def stop(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        try:
            previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller handles signals
            yield
            return
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
