"""Sums kept on the device, read only when somebody asks."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart import comm


class Meters:
    """Loss and accuracy on the perturbed training batches since the last reset, without a host synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.first_broken = torch.full((), -1, device=device)
        """Index of the first update whose loss was not finite; -1 for none."""

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, y: Tensor, update: int) -> None:
        """Count the batch of an update: loss (), logits (B, K), labels (B,)."""
        first = (self.first_broken < 0) & ~loss.detach().isfinite()
        self.first_broken.masked_fill_(first, update)
        correct = (logits.argmax(1) == y).sum()
        self.sums += torch.stack([loss.detach().double() * len(y), correct.double(), correct.new_full((), len(y))])

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy over all processes; waits for the device."""
        loss, correct, count = comm.sum_(self.sums.clone()).tolist()
        count = max(count, 1)
        return {"loss": loss / count, "train_accuracy": correct / count}

    def reset(self) -> None:
        """Start anew."""
        self.sums.zero_()
