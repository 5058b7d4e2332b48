"""Steps to time, and how to time them: shared by the scripts beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.method import GraphKey
from headstart.engine.graphs import GraphedUpdates
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
    graphs: bool = False

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
        info = TaskInfo(
            10,
            (3, 32, 32),
            self.threat,
            50_000,
            workload.batch_size,
            43_010,
            110,
            features=self.target.module.linear.in_features,
        )
        self.method = build_method(name, info, settings or {}).to(workload.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.target.module.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True
        )
        self.index = torch.arange(workload.batch_size, device=workload.device)
        self.geometry = torch.full((workload.batch_size, 3), 4, device=workload.device)
        self.geometry[:, 2] = 0
        self.updates = 0
        self.run: Callable[[Step], tuple[torch.Tensor, Step]] = lambda step: (self.descend(step), step)
        if workload.graphs:
            self.run = GraphedUpdates(self.descend, self.method, self.optimizer, self.target.passes, workload.device)

    def __call__(self, update: int) -> torch.Tensor:
        clock = Clock(update, 43_010, 0, 110, batch=update)
        loss, step = self.run(Step(self.x, self.y, self.threat, clock, self.index, self.geometry))
        self.method.observe(step)
        self.updates += 1
        return loss

    def graph_key(self) -> GraphKey:
        """The method's key for the first update; None where it gives none."""
        return self.method.graph_key(Step(self.x, self.y, self.threat, Clock(0, 43_010, 0, 110)))

    def descend(self, step: Step) -> torch.Tensor:
        loss: torch.Tensor = self.method(self.target, step)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
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
    """Mean seconds per update and peak memory in bytes (0 on a CPU), after a warm-up.

    On CUDA the warm-up covers several of FGSM-SDI's intervals, so that every kind of update is recorded where graphs
    are, and all of it runs off the default stream, as the engine does.
    """
    if device.type != "cuda":
        for update in range(2):
            step(update)
        return _mean_seconds(step, updates), 0
    with torch.cuda.stream(torch.cuda.Stream(device)):
        for update in range(5 * INTERVAL):
            if update % INTERVAL < 5:
                step(update)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = _mean_seconds(step, updates, device)
    return seconds, torch.cuda.max_memory_allocated(device)


def _mean_seconds(step: Callable[[int], Any], updates: int, device: torch.device | None = None) -> float:
    began = time.perf_counter()
    for update in range(updates):
        step(update)
    if device is not None:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / updates


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
