"""What tests of methods share: a tiny network, batches, a task, and the engine's update without its loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import Batch as EngineBatch
from headstart.training.update import Updater

CLASSES = 10
IMAGE_SHAPE = (3, 8, 8)
WIDTH = 8
THREAT = ThreatModel(8 / 255)

Batch = tuple[Tensor, Tensor, Tensor]


class TinyNet(nn.Module):
    """Three convolutions and a classifier, images (B, 3, H, W) to logits (B, K)."""

    def __init__(self, batch_norm: bool, classes: int) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return nn.BatchNorm2d(WIDTH) if batch_norm else nn.Identity()

        self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), norm()
        self.conv2, self.bn2 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False), norm()
        self.conv3, self.bn3 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), norm()
        self.linear = nn.Linear(WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled penultimate features (B, WIDTH)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))


def tiny_net(batch_norm: bool = True, classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """A small network whose weights depend on ``seed`` alone; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNet(batch_norm, classes)


def batches(n: int, size: int = 8, seed: int = 0) -> list[Batch]:
    """``n`` batches (x, y, index) of ``size`` images; the rows count up, so the list repeated is a second epoch.

    A tenth of the pixels is exactly 0 or 1, where the image box binds.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        x = (torch.rand(size, *IMAGE_SHAPE, generator=generator) * 1.1 - 0.05).clamp(0, 1)
        y = torch.randint(CLASSES, (size,), generator=generator)
        made.append((x, y, torch.arange(i * size, (i + 1) * size)))
    return made


def info(threat: ThreatModel = THREAT, **overrides: Any) -> TaskInfo:
    """The task of ``tiny_net`` and of up to eight ``batches``."""
    task = TaskInfo(
        classes=CLASSES,
        image_shape=IMAGE_SHAPE,
        threat=threat,
        samples=64,
        batch_size=8,
        updates=16,
        epochs=2,
        features=WIDTH,
    )
    return replace(task, **overrides)


def sgd(net: nn.Module, lr: float = 0.05, *, fused: bool | None = None) -> torch.optim.SGD:
    """The optimiser of ``run_method``: the papers' momentum and weight decay."""
    return torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4, fused=fused)


def clocks(n: int, epochs_of: int | None = None, replays: int = 1) -> list[Clock]:
    """The clock at the first replay of each of ``n`` batches, in epochs of ``epochs_of`` batches (default ``n``)."""
    per_epoch = epochs_of or n
    epochs = -(-n // per_epoch)
    return [Clock(i * replays, n * replays, i // per_epoch, epochs, i % per_epoch) for i in range(n)]


def update(
    method: Method, target: Target, optimizer: torch.optim.Optimizer, batch: Batch, threat: ThreatModel, clock: Clock
) -> tuple[Step, Tensor]:
    """One weight update by the engine's updater; the step as the method left it, and the loss."""
    x, y, index = batch
    ((loss, step),) = Updater(method, target, optimizer)(EngineBatch(x, y, index, None), threat, clock)
    return step, loss


def run_method(
    method: Method,
    net: nn.Module,
    batches: Sequence[Batch],
    threat: ThreatModel = THREAT,
    lr: float = 0.05,
    epochs_of: int | None = None,
    *,
    target: Target | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    start: int = 0,
) -> list[float]:
    """Train ``net`` on ``batches`` as the engine does, every batch ``method.replays`` times; the losses.

    Args:
        epochs_of: batches per epoch, after which ``clock.batch`` counts anew; default all of them.
        target: default a new one around ``net``.
        optimizer: default a new ``sgd``.
        start: batch to begin with, for a run that continues.
    """
    target = target or Target(net)
    optimizer = optimizer or sgd(net, lr)
    losses = []
    for batch, clock in list(zip(batches, clocks(len(batches), epochs_of, method.replays), strict=True))[start:]:
        for r in range(method.replays):
            _, loss = update(method, target, optimizer, batch, threat, replace(clock, update=clock.update + r))
            losses.append(loss)
    return [loss.item() for loss in losses]
