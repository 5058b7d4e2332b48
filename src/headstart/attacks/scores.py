"""What a white-box attack maximises, and the gradient of it with respect to the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.errors import unknown

Score = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample, shape (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y, shape (B,): positive where the model is fooled (Carlini & Wagner, 2017)."""
    true = y.unsqueeze(1)
    others = logits.scatter(1, true, float("-inf"))
    return others.amax(1) - logits.gather(1, true).squeeze(1)


SCORES: dict[str, Score] = {"ce": cross_entropy, "margin": margin}


def find_score(name: str) -> Score:
    """The score of this name; SettingError where there is none."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name]


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Gradient of the summed score with respect to ``x``, of its shape, and the logits (B, K), both detached.

    Parameters are left without gradients. A sum, not a mean: each sample's gradient must not shrink with the batch.
    Where the model cuts the image off from its logits (detach, NumPy), the gradient is zero.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if not logits.requires_grad:
            return torch.zeros_like(x), logits
        (grad,) = torch.autograd.grad(score(logits.float(), y).sum(), x, materialize_grads=True)
    return grad.detach(), logits.detach()


@torch.no_grad()
def fooled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each image gets another class than its label, bool (B,)."""
    wrong: Tensor = model(x).argmax(1) != y
    return wrong
