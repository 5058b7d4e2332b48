"""Whether the gradient is the model's own: held against finite differences on a few images, before any attack.

Along the gradient a difference quotient must be what the gradient says, and in random directions it must be so on
average. The quotients are taken in float64, where a step may be so small that no ReLU switches, and once more a quarter
of a grey level apart: a network that rounds its input and hands the gradient through is right there alone, and one that
rounds it and leaks a little is right in the small alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import input_gradient
from headstart.core.threat import ThreatModel
from headstart.evaluation.precision import float32
from headstart.evaluation.probe import differs

IMAGES, DIRECTIONS = 8, 2
"""Images that are looked at, each with a point of the threat model beside it, and random directions from each."""
NEAR = 0.25 / 255
"""The longer step, in every pixel: less than an attack's, so that a network's curvature plays no part."""
SMALLEST = {torch.float64: 1e-8, torch.float32: 1e-6}
"""The shorter step."""


@dataclass(frozen=True)
class Gradients:
    """What finite differences say of the gradient. Of the images and the points beside them, the worse median counts.

    Attributes:
        along: the slope along the gradient's signs as a share of what the gradient says, of two step lengths the
            better one; 1 where the gradient is right, None where there is none.
        across: how much farther a short random step moves the logits than the gradient says; about 1.
        jumps: points that differ by next to nothing have logits as different as others.
        searched: the cosine between the gradient of the model and that of the version that attacks search on.
        inference: the logits in inference mode are those under ``no_grad``.
    """

    along: float | None
    across: float
    jumps: bool
    searched: float
    inference: bool


def examine(
    model: nn.Module, searched: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, tf32: bool = False, seed: int
) -> Gradients:
    """What a few of the images (B, C, H, W) with labels (B,) show, those classified correctly first.

    It takes a pass of 32 images and fourteen of at most sixteen points, most of these in float64, one backwards; one
    more each way where attacks search on another version of the model.

    Args:
        model: deterministic, in evaluation mode and frozen, and of independent images.
        searched: the version of it that attacks query, which may be the model itself; with ``tf32`` on CUDA.
        seed: of the points and directions; the global generators are left as they are.
    """
    draw = Generator(x.device).manual_seed(seed)
    points, labels = _points(model, x, y, threat, draw)
    with torch.no_grad():
        logits = model(points)
    rival = logits.float().scatter(1, labels.unsqueeze(1), -math.inf).argmax(1, keepdim=True)

    def gap(z: Tensor, true: Tensor) -> Tensor:
        """The margin against a fixed class: smooth wherever the logits are."""
        return (z.gather(1, rival) - z.gather(1, true.unsqueeze(1))).squeeze(1)

    grad, _ = input_gradient(model, points, labels, gap)
    other = grad
    if searched is not model or tf32:
        with float32(x.device, tf32=tf32):
            other, _ = input_gradient(searched, points, labels, gap)
    twin, inference = _copied(model, points, logits)
    exact, at = (model, points) if twin is None else (twin, points.double())
    slopes = _Slopes(lambda p: gap(exact(p), labels), at, grad.to(at.dtype), logits.abs().amax(1), draw)
    halves = slice(0, len(points) // 2), slice(len(points) // 2, None)
    along = [value for half in halves if (value := slopes.along(half)) is not None]
    return Gradients(
        along=max(along, key=lambda value: abs(value - 1), default=None),
        across=max(slopes.across(half) for half in halves),
        jumps=slopes.jump(halves[1]),
        searched=min(_cosines(grad, other)[half].median().item() for half in halves),
        inference=inference,
    )


def _points(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, draw: Generator) -> tuple[Tensor, Tensor]:
    """Some images, less than a grey level off, and as many points of the threat model, with the labels of both."""
    with torch.no_grad():
        wrong = (model(x[: 4 * IMAGES]).argmax(1) != y[: 4 * IMAGES]).int()
    rows = wrong.argsort(stable=True)[:IMAGES]
    x, y = x[rows], y[rows]
    # Pictures lie on the grid of grey levels, in the middle of the steps of a model that rounds to it.
    off_grid = (torch.rand(x.shape, device=x.device, generator=draw) - 0.5) / 255
    around = [threat.box(x, delta) for delta in (off_grid, threat.project(threat.uniform(x, generator=draw)))]
    return torch.cat([x + delta for delta in around]), torch.cat([y, y])


@torch.no_grad()
def _copied(model: nn.Module, points: Tensor, logits: Tensor) -> tuple[nn.Module | None, bool]:
    """A float64 copy of the model, None where it cannot be had, and whether inference mode changes no answer.

    On a copy, since what a model stores in inference mode is of no use to autograd later.
    """
    try:
        twin = copy.deepcopy(model)
        with torch.inference_mode():
            inference = not differs(logits, twin(points))
        twin = twin.double()
        with torch.no_grad():
            exact = twin(points.double())
    except Exception:  # a model's own code, on a copy and on a type it was not made for, can fail in every way
        return None, True
    faithful = exact.dtype == torch.float64 and not differs(logits.double(), exact)
    return (twin if faithful else None), inference


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Between the gradients of each point, (B,); 1 where either is zero, since that has its own warning."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    known = (a != 0).any(1) & (b != 0).any(1)
    return torch.where(known, nn.functional.cosine_similarity(a, b, dim=1, eps=0), 1.0)


class _Slopes:
    """Difference quotients of a score at points (B, C, H, W), beside what a gradient of that shape says of them.

    Args:
        score: from points to (B,).
        size: of the logits, (B,), with which their rounding grows.
    """

    def __init__(
        self, score: Callable[[Tensor], Tensor], points: Tensor, grad: Tensor, size: Tensor, draw: Generator
    ) -> None:
        self.score, self.points, self.grad = score, points, grad
        self.rounding = 100 * torch.finfo(points.dtype).eps * size
        self.smallest = SMALLEST[points.dtype]
        self.signs = [torch.randint(2, points.shape, device=points.device, generator=draw) for _ in range(DIRECTIONS)]
        self.said = NEAR * (grad * self._inner(NEAR)).flatten(1).norm(dim=1)
        """The root mean square, over random signs, of the change in a step of NEAR."""
        self.near = torch.stack([self._change(NEAR, sign) for sign in self._random()]).square().mean(0).sqrt()
        self.ahead = [(self._said_ahead(step), self._change(step, grad.sign())) for step in (self.smallest, NEAR)]

    def along(self, rows: slice) -> float | None:
        """``Gradients.along`` of some rows."""
        found = []
        for said, change in self.ahead:
            known = (said > self.rounding)[rows]
            if known.any():
                found.append((change[rows] / said[rows])[known].median().item())
        return min(found, key=lambda share: abs(share - 1), default=None)

    def across(self, rows: slice) -> float:
        """``Gradients.across`` of some rows; infinite where the gradient is zero and the score is not constant."""
        moved = torch.where(self.near > self.rounding, self.near, 0.0)
        farther = moved / self.said
        return float(farther.masked_fill(farther.isnan(), 0.0)[rows].median())

    def jump(self, rows: slice) -> bool:
        """``Gradients.jumps`` of some rows."""
        change = self._change(self.smallest, next(self._random())).abs()
        return bool((change > torch.maximum(self.near / 10, self.rounding))[rows].float().median() > 0)

    def _said_ahead(self, step: float) -> Tensor:
        """The change in a step along the signs of the gradient, as the gradient has it."""
        return step * (self.grad.abs() * self._inner(step)).flatten(1).sum(1)

    def _random(self) -> Iterator[Tensor]:
        return (2 * sign.to(self.points.dtype) - 1 for sign in self.signs)

    def _inner(self, step: float) -> Tensor:
        """1 where a step either way stays inside the range of pixels, else 0: a model may clip its input."""
        return ((self.points >= step) & (self.points <= 1 - step)).to(self.points.dtype)

    @torch.no_grad()
    def _change(self, step: float, direction: Tensor) -> Tensor:
        """Half the difference between a step forth and one back."""
        delta = step * direction * self._inner(step)
        return (self.score(self.points + delta) - self.score(self.points - delta)) / 2
