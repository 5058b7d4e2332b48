"""Models with known weaknesses, for the attack tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, SHAPE = 10, (3, 8, 8)


class Linear(nn.Module):
    """Logits W x + b on the flattened image: the optimal L-infinity perturbation has a closed form."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        # Small weights: a softmax saturated in fp32 leaves the cross-entropy gradient without its true-class part.
        self.weight = nn.Parameter(0.1 * torch.randn(classes, 3 * 8 * 8, generator=draw))
        # Zero logits at the grey image, so that all classes occur among random images.
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def linear_task(n: int, classes: int = CLASSES, distance: float = 1 / 255) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, grid images (n, 3, 8, 8) of multiples of 1/255, and its own labels.

    With two classes every image lies ``distance`` (maximum norm, the box left aside) from the decision boundary.
    """
    model = Linear(classes)
    x = torch.randint(50, 200, (n, *SHAPE), generator=torch.Generator().manual_seed(5)) / 255
    if classes == 2:
        normal = (model.weight[1] - model.weight[0]).detach()
        signed = (x.flatten(1) - 0.5) @ normal / normal.abs().sum()
        goal = torch.where(torch.arange(n) % 2 == 0, distance, -distance)
        x = x + ((goal - signed).unsqueeze(1) * normal.sign()).view_as(x)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


class Wrapped(nn.Module):
    """A model and something done to its input or output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Noisy(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.model(x), 0.1, training=True)


class BatchStatistics(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x - x.mean(0) + 0.5)


class Probabilities(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(1)


class Quantised(Wrapped):
    """Pixels rounded to steps of 2/255: the gradient is zero everywhere, and the model as weak as before."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 127.5).round() / 127.5)


class StuckInTraining(Wrapped):
    def train(self, mode: bool = True) -> StuckInTraining:
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Scaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by one factor per image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


class Masked(Wrapped):
    """The gradient is multiplied by one number at the given clean images and by another everywhere else."""

    def __init__(self, model: nn.Module, clean: Tensor, at_clean: float, elsewhere: float) -> None:
        super().__init__(model)
        self.clean, self.at_clean, self.elsewhere = clean, at_clean, elsewhere

    def forward(self, x: Tensor) -> Tensor:
        known = (x.flatten(1).unsqueeze(1) == self.clean.flatten(1).unsqueeze(0)).all(2).any(1)
        factor = torch.where(known, self.at_clean, self.elsewhere).view(-1, 1, 1, 1)
        return self.model(_Scaled.apply(x, factor))
