"""Accuracy on held-out images during training, and the watch for catastrophic overfitting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headstart.attacks.alignment import local_linearity
from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd
from headstart.core import distributed
from headstart.core.modes import evaluating
from headstart.core.threat import ThreatModel
from headstart.data.images import ImageSet

LINEARITY = 256  # images on which local linearity is measured: two gradients of each, a fifth of a PGD-10


class Monitor:
    """Clean, FGSM and PGD-10 accuracy on the validation part, on the device, with random numbers of its own."""

    def __init__(self, data: ImageSet, device: torch.device, batch_size: int = 500) -> None:
        images, labels = data.tensors()
        share = slice(distributed.rank(), None, distributed.world_size())
        self.images, self.labels = images[share].to(device), labels[share].to(device)
        self.batch_size, self.device = batch_size, device

    def validate(self, module: nn.Module, threat: ThreatModel) -> dict[str, float]:
        """What ``measure`` finds on all images, and the mean ``linearity`` of the loss on the first ``LINEARITY``."""
        count = min(len(self.labels), self.batch_size, -(-LINEARITY // distributed.world_size()))
        x = self._batch(slice(0, count))
        draw = torch.Generator(self.device).manual_seed(1)
        with evaluating(module):
            cosines = local_linearity(module, x, self.labels[:count], threat, draw)
        total, n = distributed.sum_(torch.stack([cosines.sum(), cosines.new_tensor(count)])).tolist()
        return {**self.measure(module, threat), "linearity": total / n}

    def measure(self, module: nn.Module, threat: ThreatModel, first: int | None = None) -> dict[str, float]:
        """Accuracies as fractions under the threat model in force, and n, the number of images.

        Modes and gradients of the module and the global random state stay as they are.

        Args:
            first: only about the first so many images; default all.
        """
        count = len(self.labels) if first is None else min(len(self.labels), -(-first // distributed.world_size()))
        draw = torch.Generator(self.device).manual_seed(0)
        counts = torch.zeros(4, device=self.device)
        with evaluating(module):
            for begin in range(0, count, self.batch_size):
                rows = slice(begin, min(begin + self.batch_size, count))
                counts += self._correct(module, self._batch(rows), self.labels[rows], threat, draw)
        n, clean, single, multi = distributed.sum_(counts).tolist()
        return {"n": int(n), "clean": clean / n, "fgsm": single / n, "pgd": multi / n}

    def _batch(self, rows: slice) -> Tensor:
        return self.images[rows].float().div_(255).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _correct(module: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, draw: torch.Generator) -> Tensor:
        single = fgsm(module, x, y, threat)
        # On a CPU fooled samples are dropped: in evaluation mode they have no part in the logits of the others.
        multi = pgd(module, x, y, threat, steps=10, alpha=threat.epsilon / 4, generator=draw, cycles=True)
        with torch.no_grad():
            correct = [(module(p).argmax(1) == y).sum() for p in (x, single, multi)]
        return torch.stack([correct[0].new_full((), len(y)), *correct])
