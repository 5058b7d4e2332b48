"""FAB: the nearest point of another class, by steps onto the boundary of the linearised network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import Score, fooled, input_gradient
from headstart.core.threat import ThreatModel
from headstart.errors import extra

ITERATIONS, TOWARDS_IMAGE, OVERSHOOT, BACK = 100, 0.1, 1.05, 0.9
"""Steps for each target class, the largest weight of the clean image in a step, how far a step goes beyond the boundary
and how much of the way to an adversarial point is kept."""
ROUNDS = 25
"""Of Newton's method, which has always ended before."""
PIECE = 50_000
"""Pixel values in a step's piece of the batch on a CPU: what the cache holds while it is gone through many times."""


@torch.no_grad()
def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    targets: int,
    iterations: int = ITERATIONS,
    judge: nn.Module | None = None,
) -> Tensor:
    """Targeted FAB (Croce & Hein, 2020, arXiv:1907.02044), as AutoAttack sets it up: no random numbers.

    The reference code goes on to look for a nearer point once one is in the ball, and projects onto hyperplanes by
    sorting the pixels. Here an image is left at once, and Newton's method projects in the maximum norm.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.
        targets: the likeliest wrong classes are tried in turn.
        iterations: for each of them.
        judge: the model that must be fooled for an image to be left; ``model`` where None.

    Returns:
        Examples inside the threat model, of the shape of ``x``: the first that fools the judge, else the nearest
        one that fools the model, pulled inside; images for which there is none as they are.
    """
    x_adv, logits = x.clone(), model(x)
    size = torch.full_like(logits[:, 0], math.inf)
    order = logits.argsort(1)
    left = (logits.argmax(1) == y).nonzero().squeeze(1)
    for place in range(2, targets + 2):
        if len(left) == 0:
            break
        result = _Result(x_adv[left], size[left], torch.zeros_like(left, dtype=torch.bool), judge)
        _run(model, x[left], y[left], order[left, -place], threat, iterations, result)
        x_adv[left], size[left] = result.found, result.size
        left = left[~result.broken]
    return x + threat.box(x, threat.project(x_adv - x))


@dataclass
class _Result:
    """Of B images the nearest point (B, C, H, W) that fools the model, its distance, whether it fools the judge."""

    found: Tensor
    size: Tensor
    broken: Tensor
    judge: nn.Module | None

    def take(self, rows: Tensor, y: Tensor, point: Tensor, size: Tensor, epsilon: float) -> Tensor:
        """Note the distance of points that fool the model; those (L,) that are done with, since the judge agrees."""
        nearer = size < self.size[rows]
        self.size[rows] = torch.where(nearer, size, self.size[rows])
        self.found[rows] = chosen(nearer, point, self.found[rows])
        hit = (nearer & (size <= epsilon)).nonzero().squeeze(1)
        if len(hit) and self.judge is not None:
            hit = hit[fooled(self.judge, point[hit], y[hit])]
        self.broken[rows[hit]] = True
        return hit


def _run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    c: Tensor,
    threat: ThreatModel,
    iterations: int,
    result: _Result,
) -> None:
    """Towards the target classes ``c`` (B,), from the images."""
    rows, point = torch.arange(len(y), device=y.device), x
    piece = max(1, PIECE // x[0].numel()) if x.device.type == "cpu" else len(x)
    for _ in range(iterations):
        towards = lead_of(c)
        grad, logits = input_gradient(model, point, y, towards)
        pieces = zip(*(torch.split(t, piece) for t in (point, x, grad, towards(logits, y))), strict=True)
        point = torch.cat([_step(threat, *parts) for parts in pieces])
        beaten = fooled(model, point, y)
        size = threat.size(point - x).masked_fill(~beaten, math.inf)
        done = result.take(rows, y, point, size, threat.epsilon)
        if len(done):
            stay = torch.ones_like(beaten).index_fill_(0, done, False)
            rows, x, y, c, point, beaten = (t[stay] for t in (rows, x, y, c, point, beaten))
            if len(rows) == 0:
                break
        point = chosen(beaten, x + BACK * (point - x), point)


def _step(threat: ThreatModel, point: Tensor, x: Tensor, grad: Tensor, lead: Tensor) -> Tensor:
    """The next point: beyond the boundary that is seen from ``point``, and a little towards the image ``x``.

    Args:
        grad: of ``lead`` (B,), which is negative on the side of the label's class, at ``point``.
    """
    grad = grad.contiguous()  # like the images: what follows is slow where layouts mix
    offset = lead + (grad * (x - point)).flatten(1).sum(1)  # the linearised lead at the image
    steps = to_hyperplane(threat, torch.cat([point, x]), torch.cat([grad, grad]), torch.cat([lead, offset]))
    size = threat.size(steps).clamp_min_(1e-8).view(-1, 1, 1, 1)
    (from_point, from_image), (near, far) = steps.chunk(2), size.chunk(2)
    weight = (near / (near + far)).clamp_max_(TOWARDS_IMAGE)
    ahead = from_point.mul_(OVERSHOOT).add_(point).mul_(1 - weight)
    back = from_image.mul_(OVERSHOOT).add_(x).mul_(weight)
    return ahead.add_(back).clamp_(0, 1)


def to_hyperplane(threat: ThreatModel, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """The shortest step from ``x`` in [0, 1] to where <w, step> = -c that stays in [0, 1]; all (B, C, H, W), c (B,).

    Where the box does not reach so far, the step goes as near as it does.
    """
    if threat.norm == "l2":
        with extra("evaluate"):
            from pyautoattack.fab_projections import projection_l2
        flat = x.flatten(1)
        step: Tensor = projection_l2(flat, w.flatten(1), (w.flatten(1) * flat).sum(1) - c)
        return step.view_as(x)
    # Each pixel moves by t against w * c, or as far as the box lets it. The way gained is concave in t and linear
    # between the pixels' limits, so Newton's method from below never goes too far and ends after finitely many steps.
    # Masks are numbers, 0 or 1: on a CPU that is several times faster than booleans and where.
    direction = (w.sign() * -c.sign().view(-1, 1, 1, 1)).flatten(1)
    room = torch.addcmul((direction + 1) / 2, direction, x.flatten(1), value=-1)  # 1 - x upwards, x downwards
    rate = w.flatten(1).abs()
    gained, goal = rate * room, c.abs().unsqueeze(1)
    t = goal / rate.sum(1, keepdim=True).clamp_min(1e-30)
    free = (room - t).sign_().clamp_(min=0)  # where the box lets a pixel move by more than t
    for _ in range(ROUNDS):
        rest = (rate * free).sum(1, keepdim=True)
        further = (goal - (gained * (1 - free)).sum(1, keepdim=True)) / rest
        t = torch.where(rest > 0, further, t).maximum(t)
        before, free = free, (room - t).sign_().clamp_(min=0)
        if torch.equal(free, before):
            break
    return torch.minimum(room, t).mul_(direction).view_as(x)


def lead_of(c: Tensor) -> Score:
    """The score z_c - z_y of target classes ``c`` (B,)."""

    def lead(logits: Tensor, y: Tensor) -> Tensor:
        return (logits.gather(1, c.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)

    return lead
