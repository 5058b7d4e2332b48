"""Accuracy on held-out images during training, and the watch for catastrophic overfitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headstart import comm
from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd
from headstart.data.images import ImageSet
from headstart.threat import ThreatModel

# Collapse: PGD accuracy falls below a third of its best so far (the criterion of methods' comparison tables) and
# FGSM accuracy stays this far above it.
COLLAPSE_RATIO, COLLAPSE_GAP = 1 / 3, 0.15


class Monitor:
    """Clean, FGSM and PGD-10 accuracy on the validation part, on the device, with random numbers of its own."""

    def __init__(self, data: ImageSet, threat: ThreatModel, device: torch.device, batch_size: int = 500) -> None:
        images, labels = data.tensors()
        share = slice(comm.rank(), None, comm.world_size())
        self.images, self.labels, self.size = images[share].to(device), labels[share].to(device), len(data)
        self.threat, self.batch_size, self.device = threat, batch_size, device

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Accuracies as fractions; leaves mode, random state and gradients of the module untouched."""
        was_training = module.training
        module.eval()
        draw = torch.Generator(self.device).manual_seed(0)
        counts = torch.zeros(3, device=self.device)
        for begin in range(0, len(self.labels), self.batch_size):
            rows = slice(begin, begin + self.batch_size)
            x = self.images[rows].float().div_(255).contiguous(memory_format=torch.channels_last)
            counts += self._correct(module, x, self.labels[rows], draw)
        module.train(was_training)
        clean, single, multi = (comm.sum_(counts) / self.size).tolist()
        return {"n": self.size, "clean": clean, "fgsm": single, "pgd": multi}

    def _correct(self, module: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator) -> Tensor:
        alpha = self.threat.epsilon / 4
        points = [
            x,
            fgsm(module, x, y, self.threat),
            pgd(module, x, y, self.threat, steps=10, alpha=alpha, generator=draw),
        ]
        with torch.no_grad():
            return torch.stack([(module(p).argmax(1) == y).sum() for p in points])


def collapsed(history: Sequence[dict[str, Any]]) -> bool:
    """Whether the last of the validation results shows catastrophic overfitting.

    PGD accuracy below a third of its best so far while FGSM accuracy stays at least 15 points above it. The ratio
    alone also fires on divergence, where FGSM accuracy falls too.
    """
    best = max((h["pgd"] for h in history), default=0.0)
    now = history[-1]
    return bool(now["pgd"] < COLLAPSE_RATIO * best and now["fgsm"] - now["pgd"] > COLLAPSE_GAP)
