"""How far each image is from another class, clean and attacked, and which class it then goes to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import margin
from headstart.core.threat import ThreatModel
from headstart.evaluation.inspection.search import worst


@dataclass(frozen=True)
class Margins:
    """Logit margins of B images, z_y - max_{j != y} z_j: negative where the model is wrong.

    Attributes:
        clean: at the images, (B,).
        attacked: at the worst perturbations found, (B,).
        confusion: how many images of each class (row) the attacked model calls which class (column), (K, K).
    """

    clean: Tensor
    attacked: Tensor
    confusion: Tensor


@torch.no_grad()
def margins(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None = None) -> Margins:
    """Measure them, by PGD-20 on the margin itself; see ``loss_surface`` for the arguments."""
    clean = model(x).float()
    delta, _ = worst(model, x, y, threat, score="margin", generator=generator)
    attacked = model(x + delta).float()
    classes = clean.shape[1]
    pairs = y * classes + attacked.argmax(1)
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return Margins(-margin(clean, y).cpu(), -margin(attacked, y).cpu(), confusion.cpu())
