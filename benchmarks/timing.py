"""Steps to time, and how to time them: shared by the scripts beside this file."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tests.reference import literal
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from headstart.core import Clock, Passes, Step, Target, TaskInfo
from headstart.core.layers import output_layer
from headstart.core.method import GraphKey
from headstart.core.threat import ThreatModel
from headstart.data import Batch
from headstart.methods.registry import build_method
from headstart.models import build_model
from headstart.parts.generator import GeneratorInit
from headstart.training.update import Updater

EPSILON = 8 / 255
# The run whose updates are timed is as long as the published ones, and they are those of an epoch in its middle: there
# FGSM-SDI has its published interval, no memory is drawn anew, and whatever begins late or ends early is at work.
BATCHES, EPOCHS, EPOCH = 391, 110, 55  # batches of an epoch, epochs, the epoch timed
INTERVAL = 20  # updates between two of FGSM-SDI's generator updates, or two of LIET's templates
# An interval, by what happens in it: one update with the rare work, ten odd ones (GAT and NuAT do more), nine even.
SHARES = {0: 1 / INTERVAL, 1: 10 / INTERVAL, 2: 9 / INTERVAL}
# Three batches in one pass, which Target counts as one; in batches it is two forwards and two backwards more.
EXTRA_PASSES = {name: Passes(forwards=2, backwards=2) for name in ("elle", "elle-a")}
DOUBLE_BACKWARDS = {"fgsm-ga", "fast-bat"}  # one of their backwards goes through an input gradient

Update = Callable[[int], Any]  # called with the index of the update
Clockwork = Callable[[], float]  # seconds since some moment


@dataclass(frozen=True)
class Workload:
    """A network and a batch of CIFAR-10's shape or of larger images, random but fixed."""

    device: torch.device
    model: str = "resnet18"
    batch_size: int = 32
    bf16: bool = False
    compiled: bool = False
    graphs: bool = False
    size: int = 32
    model_args: dict[str, Any] | None = None

    def batch(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch_size, 3, self.size, self.size, generator=draw)
        y = torch.randint(0, 10, (self.batch_size,), generator=draw)
        return x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def target(self) -> Target:
        torch.manual_seed(0)
        network = build_model(self.model, 10, args=self.model_args).to(self.device, memory_format=torch.channels_last)
        fast = torch.compile(network, dynamic=False) if self.compiled else None
        return Target(network, fast=fast, bf16=self.bf16)  # type: ignore[arg-type]


class MethodStep:
    """One update of a method as the engine makes it; call with the index of the update."""

    def __init__(self, workload: Workload, name: str, settings: dict[str, Any] | None = None) -> None:
        self.name, self.target = name, workload.target()
        self.threat = ThreatModel(EPSILON)
        x, y = workload.batch()
        info = TaskInfo(
            10,
            (3, workload.size, workload.size),
            self.threat,
            samples=50_000,
            batch_size=workload.batch_size,
            updates=EPOCHS * BATCHES,
            epochs=EPOCHS,
            features=output[1].in_features if (output := output_layer(self.target.module)) else 0,
        )
        self.method = build_method(name, info, settings or {}).to(workload.device, memory_format=torch.channels_last)
        self.optimizer = sgd(self.target.module.parameters())
        geometry = torch.full((workload.batch_size, 3), 4, device=workload.device)
        geometry[:, 2] = 0
        self.batch = Batch(x, y, torch.arange(workload.batch_size, device=workload.device), geometry)
        graphs = workload.device if workload.graphs else None
        self.updater = Updater(self.method, self.target, self.optimizer, graphs=graphs)
        self.updates = 0

    def __call__(self, update: int) -> Tensor:
        ((loss, _),) = self.updater(self.batch, self.threat, self.clock(update))
        self.updates += 1
        return loss

    def clock(self, update: int) -> Clock:
        return Clock(EPOCH * BATCHES + update, EPOCHS * BATCHES, EPOCH, EPOCHS, batch=update)

    def step(self, update: int) -> Step:
        batch = self.batch
        return Step(batch.x, batch.y, self.threat, self.clock(update), batch.index, batch.geometry)

    def graph_key(self) -> GraphKey:
        """The method's key for the first update; None where it gives none."""
        return self.method.graph_key(self.step(0))

    def passes_per_update(self) -> dict[str, float]:
        """Mean passes of the updates made so far."""
        return {kind: count / self.updates for kind, count in asdict(self.target.passes).items()}

    def passes_per_interval(self) -> dict[str, float]:
        """Mean passes of an update over a whole interval, in batches; makes an update of each kind.

        A double backward is counted apart from the other backwards.
        """
        mean = dict.fromkeys([*asdict(Passes()), "double_backwards"], 0.0)
        for update, share in SHARES.items():
            before = asdict(self.target.passes)
            self(update)
            for kind, count in asdict(self.target.passes).items():
                mean[kind] += share * (count - before[kind])
        for kind, count in asdict(EXTRA_PASSES.get(self.name, Passes())).items():
            mean[kind] += count
        if self.name in DOUBLE_BACKWARDS:
            mean["backwards"] -= 1
            mean["double_backwards"] += 1
        return {kind: round(count, 3) for kind, count in mean.items()}

    def state_bytes(self) -> int:
        """What the method keeps beside the network: weights, tables and per-sample memory."""
        return sum(t.nbytes for t in (*self.method.parameters(), *self.method.buffers()))

    def generator_steps(self) -> dict[str, Update]:
        """The generator's own passes, where the method has one: a proposal, and what its update adds of its own.

        The passes through the network that its update makes are counted with the network's.
        """
        init = self.method.init
        if not isinstance(init, GeneratorInit):
            return {}
        step = self.step(0)
        h = torch.cat([step.x, step.x.sign()], dim=1)

        def propose(_: int) -> None:
            init.generator.eval()
            with torch.no_grad():
                init.propose(self.target, step, h)

        def learn(_: int) -> None:
            init.generator.train()
            init.propose(self.target, step, h).sum().backward()
            init.optimizer.step()
            init.optimizer.zero_grad()

        return {"proposal": propose, "generator update": learn}


def sgd(weights: Any, lr: float = 0.01) -> torch.optim.SGD:
    """The engine's optimiser."""
    return torch.optim.SGD(weights, lr, momentum=0.9, weight_decay=5e-4, fused=True)


def method_step(workload: Workload, name: str) -> MethodStep:
    """An update of a method by name, with its default settings."""
    return MethodStep(workload, name)


LITERAL = {
    "standard": literal.standard,
    "fgsm": literal.fgsm_at,
    "fgsm-rs": literal.fgsm_rs,
    "n-fgsm": literal.n_fgsm,
    "pgd-at": literal.pgd_at,
}


def literal_step(workload: Workload, name: str) -> Update:
    """An update of a literal published loop: fp32, contiguous layout, all its redundant work included."""
    if name == "fgsm-sdi":
        return literal_sdi_step(workload)
    network = plain_network(workload)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    x, y = (t.contiguous() for t in workload.batch())
    return lambda _: LITERAL[name](network, optimizer, x.clone(), y, EPSILON)


def literal_sdi_step(workload: Workload) -> Update:
    """An update of the literal published FGSM-SDI loop."""
    network = plain_network(workload)
    generator = literal.LiteralGenerator().to(workload.device)
    loop = literal.LiteralSDI(network, generator, epsilon=EPSILON, classes=10, every=INTERVAL)
    x, y = (t.contiguous() for t in workload.batch())
    return lambda update: loop.step(x.clone(), y, update)


def plain_network(workload: Workload) -> torch.nn.Module:
    """The network as anyone has it: fp32, contiguous layout."""
    torch.manual_seed(0)
    return build_model(workload.model, 10, args=workload.model_args).to(workload.device)


# -- single passes -----------------------------------------------------------------------------------------------


def single_passes(workload: Workload) -> dict[str, Update]:
    """The elementary passes that an update is made of, nothing else done; what they cost is in ``pass_seconds``."""
    target = workload.target()
    x, y = workload.batch()
    weights = [p.detach().clone().requires_grad_() for p in target.module.parameters()]
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer = sgd(weights)

    def score(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, y)

    def forward(_: int) -> None:
        with torch.no_grad():
            target(x)

    def ascend(_: int) -> None:
        target.ascend(x, score)

    def descend(_: int) -> None:
        score(target.descend(x)).backward()
        target.module.zero_grad()

    def twice(_: int) -> None:
        grad, _logits = target.ascend(x, score, create=True)
        grad.square().sum().backward()
        target.module.zero_grad()

    return {
        "forward": forward,
        "ascend": ascend,
        "descend": descend,
        "double backward": twice,
        "optimizer": lambda _: optimizer.step(),
    }


def pass_seconds(seconds: dict[str, float]) -> dict[str, float]:
    """Cost of each kind of pass, from the seconds of ``single_passes``: of backwards, what they add to a forward."""
    forward, ascend = seconds["forward"], seconds["ascend"]
    return {
        "forwards": forward,
        "input_gradients": ascend - forward,
        "backwards": seconds["descend"] - forward,
        "double_backwards": seconds["double backward"] - ascend,
        "optimizer": seconds["optimizer"],
    }


def pass_times(workload: Workload, repeats: int = 10) -> dict[str, float]:
    """``pass_seconds``, measured by themselves."""
    steps = single_passes(workload).items()
    return pass_seconds({name: devices_time(step, workload.device, repeats)[0] for name, step in steps})


# -- clocks ------------------------------------------------------------------------------------------------------


def in_turns(
    steps: dict[str, Update], rounds: int, device: torch.device, warm_up: int = 1, clock: Clockwork = time.perf_counter
) -> dict[str, float]:
    """Seconds per update of each step, over an interval: medians of ``rounds`` rounds in which all take turns.

    Whatever else the machine does hits all alike.
    """
    times: dict[tuple[str, int], list[float]] = {(name, update): [] for name in steps for update in SHARES}
    with side_stream(device):
        for r in range(warm_up + rounds):
            for name, step in steps.items():
                for update in SHARES:
                    seconds = mean_seconds(step, [update], device, clock)
                    if r >= warm_up:
                        times[name, update].append(seconds)
    return {
        name: sum(share * statistics.median(times[name, update]) for update, share in SHARES.items()) for name in steps
    }


def devices_time(step: Update, device: torch.device, updates: int) -> tuple[float, int]:
    """Mean seconds per update and peak memory in bytes (0 on a CPU), after a warm-up.

    On CUDA the warm-up covers several of FGSM-SDI's intervals, so that every kind of update is recorded where graphs
    are.
    """
    with side_stream(device):
        warm_up = [k for k in range(5 * INTERVAL) if k % INTERVAL < 5] if device.type == "cuda" else range(2)
        mean_seconds(step, warm_up, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = mean_seconds(step, range(updates), device)
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def peak_bytes(step: Update, device: torch.device) -> int:
    """Largest size of the tensors that an update makes and frees again: the longest of an interval, warmed up.

    On CUDA as the allocator counts it; on a CPU from the profiler's record of every allocation, without the scratch
    space that libraries take for themselves.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        kept = torch.cuda.memory_allocated(device)
        for update in SHARES:
            step(update)
        return torch.cuda.max_memory_allocated(device) - kept
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it announces itself on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        for update in SHARES:
            step(update)
    assert record.profiler is not None
    events = record.profiler.kineto_results.events()
    used = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        used += size
        peak = max(peak, used)
    return peak


def mean_seconds(
    step: Update, updates: Sequence[int], device: torch.device, clock: Clockwork = time.perf_counter
) -> float:
    """Seconds per call of a step, called with each of ``updates``; the device has finished at the end."""
    began = clock()
    for update in updates:
        step(update)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - began) / len(updates)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """All of it off the default stream, as in the engine, because CUDA graphs are recorded there."""
    with torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext():
        yield
