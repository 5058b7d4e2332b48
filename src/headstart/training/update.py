"""The weight update, the same for every training here: perturb, descend, step, observe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headstart.core import Clock, Method, Step, Target
from headstart.core.threat import ThreatModel
from headstart.data import Batch
from headstart.training.graphs import GraphedUpdates


class Updater:
    """Updates a network's weights by a method, batch after batch. Nothing in here waits for the device.

    Args:
        optimizer: of the weights behind ``target``; it steps once per batch.
        accumulate: parts into which a batch is cut; their gradients are added up.
        clip: largest gradient norm; 0 for none.
        noise: radius over epsilon of uniform noise on the images; 0 for none.
        unsynchronised: makes a context in which a backward leaves each process its own gradients; for all parts of a
            batch but the last.
        graphs: the CUDA device on which updates are recorded and replayed as graphs; None for not at all. Excludes
            ``accumulate``. What is recorded holds for this optimiser state and ``clip``: make a new Updater when a
            state was loaded.
    """

    def __init__(
        self,
        method: Method,
        target: Target,
        optimizer: Optimizer,
        *,
        accumulate: int = 1,
        clip: float = 0.0,
        noise: float = 0.0,
        unsynchronised: Callable[[], AbstractContextManager[object]] = nullcontext,
        graphs: torch.device | None = None,
    ) -> None:
        self.method, self.target, self.optimizer = method, target, optimizer
        self.accumulate, self.clip, self.noise = accumulate, clip, noise
        self.unsynchronised = unsynchronised
        self.graphs = GraphedUpdates(self.descend, method, optimizer, target.passes, graphs) if graphs else None

    def __call__(self, batch: Batch, threat: ThreatModel, clock: Clock) -> list[tuple[Tensor, Step]]:
        """Update the weights once.

        Args:
            threat: the threat model in force.
            clock: where training stands; ``clock.batch`` counts whole batches.

        Returns:
            Of each part of the batch the loss (), detached, and the step as the method left it. With graphs both are
            overwritten by later updates.
        """
        done = []
        parts = self._parts(batch)
        for k, part in enumerate(parts):
            place = replace(clock, batch=clock.batch * self.accumulate + k)
            step = Step(self._noisy(part.x, threat), part.y, threat, place, part.index, part.geometry)
            if self.graphs:
                loss, step = self.graphs(step)
            else:
                loss = self.descend(step, share=len(part.y) / len(batch.y), last=k + 1 == len(parts))
            self.method.observe(step)
            done.append((loss, step))
        return done

    def descend(self, step: Step, share: float = 1.0, last: bool = True) -> Tensor:
        """The part of an update that is the same whenever the method's graph key is; returns the loss.

        Args:
            share: of this part in its batch.
            last: whether it completes the batch, so that the weights move.
        """
        with nullcontext() if last else self.unsynchronised():
            loss: Tensor = self.method(self.target, step)
            (loss * share if share < 1 else loss).backward()  # type: ignore[no-untyped-call]
        if last:
            if self.clip:
                nn.utils.clip_grad_norm_(self.target.module.parameters(), self.clip, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _parts(self, batch: Batch) -> list[Batch]:
        if self.accumulate == 1:
            return [batch]
        size = -(-len(batch.y) // self.accumulate)
        x, y, index = (torch.split(tensor, size) for tensor in (batch.x, batch.y, batch.index))
        geometry = torch.split(batch.geometry, size) if batch.geometry is not None else [None] * len(y)
        return [Batch(*part) for part in zip(x, y, index, geometry, strict=True)]

    def _noisy(self, x: Tensor, threat: ThreatModel) -> Tensor:
        return x + threat.box(x, threat.uniform(x, self.noise)) if self.noise else x
