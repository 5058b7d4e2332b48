"""Steps to time, and how to time them: shared by the scripts beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.models import build_model
from headstart.registry import build_method
from headstart.threat import ThreatModel

EPSILON = 8 / 255
INTERVAL = 20  # updates between two of FGSM-SDI's generator updates; timings cover whole intervals


@dataclass(frozen=True)
class Workload:
    """A network and a batch of CIFAR-10's shape, random but fixed."""

    device: torch.device
    model: str = "resnet18"
    batch_size: int = 32
    bf16: bool = False
    compiled: bool = False

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch_size, 3, 32, 32, generator=draw)
        y = torch.randint(0, 10, (self.batch_size,), generator=draw)
        return x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def target(self) -> Target:
        torch.manual_seed(0)
        network = build_model(self.model, 10).to(self.device, memory_format=torch.channels_last)
        if self.compiled:
            torch._dynamo.reset()  # each network is compiled for itself, as in a run
        fast = torch.compile(network, dynamic=False) if self.compiled else None
        return Target(network, fast=fast, bf16=self.bf16)  # type: ignore[arg-type]


class MethodStep:
    """One update of a method as the engine makes it; call with the index of the update."""

    def __init__(self, workload: Workload, name: str, settings: dict[str, Any] | None = None) -> None:
        self.target = workload.target()
        self.threat = ThreatModel(EPSILON)
        self.x, self.y = workload.batch()
        info = TaskInfo(10, (3, 32, 32), self.threat, 50_000, workload.batch_size, 43_010, 110)
        self.method = build_method(name, info, settings or {}).to(workload.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.target.module.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True
        )
        self.index = torch.arange(workload.batch_size, device=workload.device)
        self.geometry = torch.full((workload.batch_size, 3), 4, device=workload.device)
        self.geometry[:, 2] = 0
        self.updates = 0

    def __call__(self, update: int) -> torch.Tensor:
        clock = Clock(update, 43_010, 0, 110, batch=update)
        step = Step(self.x, self.y, self.threat, clock, self.index, self.geometry)
        loss = self.method(self.target, step)
        loss.backward()
        self.optimizer.step()
        self.method.observe(step)
        self.optimizer.zero_grad()
        self.updates += 1
        return loss.detach()

    def passes_per_update(self) -> dict[str, float]:
        """Mean passes of the updates made so far."""
        return {kind: count / self.updates for kind, count in asdict(self.target.passes).items()}


def method_step(workload: Workload, name: str) -> MethodStep:
    """An update of a method by name, with its default settings."""
    return MethodStep(workload, name)


def literal_sdi_step(workload: Workload) -> Callable[[int], None]:
    """An update of the literal published FGSM-SDI loop, fp32, contiguous layout, all its redundant work included."""
    from tests.reference.literal import LiteralGenerator, LiteralSDI

    torch.manual_seed(0)
    network = build_model(workload.model, 10).to(workload.device)
    generator = LiteralGenerator().to(workload.device)
    loop = LiteralSDI(network, generator, epsilon=EPSILON, classes=10, every=INTERVAL)
    x, y = (t.contiguous() for t in workload.batch())

    def step(update: int) -> None:
        loop.step(x.clone(), y, update)

    return step


def devices_time(step: Callable[[int], Any], device: torch.device, updates: int) -> tuple[float, int]:
    """Mean seconds per update and peak memory in bytes (0 on a CPU), after a warm-up of one interval's kinds."""
    cuda = device.type == "cuda"
    for update in (0, 1, 2):
        step(update)
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for update in range(updates):
        step(update)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - began) / updates
    return seconds, torch.cuda.max_memory_allocated(device) if cuda else 0


def pass_times(workload: Workload, repeats: int = 10) -> dict[str, float]:
    """Seconds of a bare forward with its share of backward: what a pass costs when nothing else is done.

    "forwards" is the forward alone, "input_gradients" and "backwards" what the two kinds of backward add to it.
    """
    target = workload.target()
    x, y = workload.batch()

    def forward(_: int) -> torch.Tensor:
        with torch.no_grad():
            return target(x)

    def ascend(_: int) -> torch.Tensor:
        return target.ascend(x, lambda z: F.cross_entropy(z, y))[0]

    def descend(_: int) -> None:
        F.cross_entropy(target.descend(x), y).backward()
        target.module.zero_grad()

    seconds = [devices_time(step, workload.device, repeats)[0] for step in (forward, ascend, descend)]
    return {"forwards": seconds[0], "input_gradients": seconds[1] - seconds[0], "backwards": seconds[2] - seconds[0]}
