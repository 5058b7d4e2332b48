"""Sums kept on the device, read only when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from headstart.core import distributed


class Meters:
    """Loss and accuracy on the perturbed training batches since the last reset, without a host synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.first_broken = torch.full((), -1, device=device)
        """Index of the first update whose loss was not finite; -1 for none."""

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, y: Tensor, update: int) -> None:
        """Count a batch of an update: loss (), logits (B, K), labels (B,); not if the loss is infinite or NaN."""
        finite = loss.detach().isfinite()
        self.first_broken.masked_fill_((self.first_broken < 0) & ~finite, update)
        correct = (logits.argmax(1) == y).sum()
        counted = torch.stack([loss.detach().double() * len(y), correct.double(), correct.new_full((), len(y))])
        self.sums += torch.where(finite, counted, 0)

    def broken(self) -> Tensor:
        """Infinity if a loss was not finite on this process, else 0; of shape ()."""
        return torch.where(self.first_broken < 0, 0.0, torch.inf)

    def forget_broken(self) -> None:
        """Watch for the first loss that is not finite anew."""
        self.first_broken.fill_(-1)

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy over all processes; waits for the device."""
        loss, correct, count = distributed.sum_(self.sums.clone()).tolist()
        count = max(count, 1)
        return {"loss": loss / count, "train_accuracy": correct / count}

    def reset(self) -> None:
        """Start anew."""
        self.sums.zero_()

    def state_dict(self) -> Tensor:
        """The sums over all processes."""
        return distributed.sum_(self.sums.clone())

    def load_state_dict(self, sums: Tensor) -> None:
        """Go on from ``state_dict``, which the first process takes over for all."""
        self.sums.copy_(sums if distributed.rank() == 0 else torch.zeros_like(sums))


class Stopwatch:
    """Seconds by what they were spent on, when the device had caught up, and those of the processor in all of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        """Those of the processor, of all threads, by the same."""
        self._counted: str | None = None
        self._since = self._processor_since = 0.0

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Count the time inside as ``what``, and not as what it is spent within."""
        outer = self._counted
        self._switch(what)
        try:
            yield
        finally:
            self._switch(outer)

    @property
    def processor_seconds(self) -> float:
        """Those of the processor in all of it."""
        return sum(self.processor.values())

    def _switch(self, what: str | None) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now, processor = time.perf_counter(), time.process_time()
        if self._counted:
            self.seconds[self._counted] = self.seconds.get(self._counted, 0.0) + now - self._since
            spent = processor - self._processor_since
            self.processor[self._counted] = self.processor.get(self._counted, 0.0) + spent
        self._counted, self._since, self._processor_since = what, now, processor
