"""Auto-PGD: gradient ascent whose steps shorten where they no longer help."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import Score, cross_entropy, fooled, input_gradient, margin
from headstart.core.threat import ThreatModel

ITERATIONS, MOMENTUM, RISING = 100, 0.75, 0.75
"""Steps, the weight of a step beside that of the step before, and the share of a period's steps that should help."""
PERIOD, SHORTER, SHORTEST = 22, 3, 6
"""Steps before the first look at the step size, by how much fewer there are before each next one, and the fewest."""


@torch.no_grad()
def apgd_ce(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, seed: int = 0, judge: nn.Module | None = None
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce & Hein, 2020, arXiv:2003.01690), as AutoAttack sets it up.

    The reference code's steps with the same random numbers: a CPU generator with ``seed`` gives one to each pixel of
    the images that are classified correctly. The reference code moves a fooled image to the end; here it is left.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.
        judge: the model that must be fooled for an image to be left; ``model`` where None.

    Returns:
        Examples inside the threat model, of the shape of ``x``: the first that fools the judge, else the one of the
        largest margin.
    """
    return _attack(model, x, y, threat, 0, seed, judge)


@torch.no_grad()
def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    targets: int,
    seed: int = 0,
    judge: nn.Module | None = None,
) -> Tensor:
    """Auto-PGD on the targeted logit ratio, for the likeliest wrong classes in turn; see ``apgd_ce``.

    For each target, the generator gives a number to each pixel of the images that are left.
    """
    return _attack(model, x, y, threat, targets, seed, judge)


def _attack(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, targets: int, seed: int, judge: nn.Module | None
) -> Tensor:
    draw = Generator().manual_seed(seed)
    x_adv, logits = x.clone(), model(x)
    order, gap = logits.argsort(1), margin(logits, y)
    left = (logits.argmax(1) == y).nonzero().squeeze(1)
    for place in range(2, targets + 2) if targets else (None,):
        if len(left) == 0:
            break
        start = _start(threat, x[left], draw)
        c = y[left] if place is None else order[left, -place]
        result = _Result(x_adv[left], gap[left], torch.zeros_like(left, dtype=torch.bool), judge)
        _run(model, x[left], y[left], c, start, threat, targets > 0, result)
        x_adv[left], gap[left] = result.found, result.gap
        left = left[~result.broken]
    return x_adv


def _start(threat: ThreatModel, x: Tensor, draw: Generator) -> Tensor:
    """A point on the ball's surface."""
    if threat.norm == "linf":
        noise = (2 * torch.rand(x.shape, generator=draw) - 1).to(x.device)
    else:
        noise = torch.randn(x.shape, generator=draw).to(x.device)
    return (x + threat.epsilon * _unit(threat, noise)).clamp_(0, 1)


def _unit(threat: ThreatModel, delta: Tensor) -> Tensor:
    return delta / (threat.size(delta).view(-1, 1, 1, 1) + 1e-12)


@dataclass
class _State:
    """L images on their way; every field has a row for each.

    Attributes:
        x, y, c: image, label and target class.
        point, before: where it is, and was one step ago.
        grad, best_grad: of the score there and at ``best``, the point of the highest score ``best_score``.
        step: step size, (L, 1, 1, 1).
        last_score, score_at_check: of the step before, and the best at the last look at the step size.
        rises: steps of this period that raised the score, (L,).
        halved: whether the last look halved the step.
        row: in the batch.
    """

    x: Tensor
    y: Tensor
    c: Tensor
    point: Tensor
    before: Tensor
    grad: Tensor
    best: Tensor
    best_grad: Tensor
    best_score: Tensor
    last_score: Tensor
    score_at_check: Tensor
    rises: Tensor
    step: Tensor
    halved: Tensor
    row: Tensor

    def select(self, mask: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


@dataclass
class _Result:
    """What is found of B images: points (B, C, H, W), with their margins, and whether they fool the judge, (B,)."""

    found: Tensor
    gap: Tensor
    broken: Tensor
    judge: nn.Module | None

    def take(self, state: _State, logits: Tensor) -> None:
        """Note who came nearer to another class, and follow those no further that the judge finds there."""
        gap = margin(logits, state.y)
        nearer = gap > self.gap[state.row]
        self.gap[state.row] = torch.where(nearer, gap, self.gap[state.row])
        self.found[state.row] = chosen(nearer, state.point, self.found[state.row])
        hit = ((logits.argmax(1) != state.y) & nearer).nonzero().squeeze(1)
        if len(hit) == 0:
            return
        gone = hit if self.judge is None else hit[fooled(self.judge, state.point[hit], state.y[hit])]
        if len(gone):
            self.broken[state.row[gone]] = True
            state.select(torch.ones_like(state.y, dtype=torch.bool).index_fill_(0, gone, False))


def _run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    c: Tensor,
    start: Tensor,
    threat: ThreatModel,
    targeted: bool,
    result: _Result,
) -> None:
    """From ``start``, on the loss of target classes ``c`` (B,) or on the cross-entropy."""
    score = _ratio(c) if targeted else cross_entropy
    grad, logits = input_gradient(model, start, y, score)
    first = score(logits, y)
    zero = torch.zeros_like(first)
    state = _State(
        x, y, c, start, start, grad, start, grad, first, zero, first, zero,
        x.new_full((len(x), 1, 1, 1), 2 * threat.epsilon), torch.ones_like(result.broken),
        torch.arange(len(x), device=x.device),
    )  # fmt: skip
    result.take(state, logits)
    period, since = PERIOD, 0
    for i in range(ITERATIONS):
        if len(state.row) == 0:
            break
        state.point, state.before = _moved(threat, state, MOMENTUM if i else 1.0), state.point
        score = _ratio(state.c) if targeted else cross_entropy
        state.grad, logits = input_gradient(model, state.point, state.y, score)
        _note(state, score(logits, state.y))
        result.take(state, logits)
        since += 1
        if since == period:
            _shorten(state, period)
            period, since = max(period - SHORTER, SHORTEST), 0


def _moved(threat: ThreatModel, state: _State, momentum: float) -> Tensor:
    """The next point: a step along the gradient, projected, averaged with the step before, projected."""
    x, point = state.x, state.point
    inertia = (point - state.before).mul_(1 - momentum)
    if threat.norm == "linf":
        low, high = (x - threat.epsilon).clamp_min_(0), (x + threat.epsilon).clamp_max_(1)
        ahead = (state.step * state.grad.sign()).add_(point).clamp_(low, high)
        return ahead.sub_(point).mul_(momentum).add_(point).add_(inertia).clamp_(low, high)
    ahead = _project(threat, x, point + state.step * _unit(threat, state.grad))
    return _project(threat, x, point + (ahead - point) * momentum + inertia)


def _project(threat: ThreatModel, x: Tensor, point: Tensor) -> Tensor:
    return x + threat.box(x, threat.project(point - x))


def _note(state: _State, score: Tensor) -> None:
    """Take in the score (L,) of the point."""
    state.rises = state.rises + (score > state.last_score)
    state.last_score = score
    better = score > state.best_score
    state.best = chosen(better, state.point, state.best)
    state.best_grad = chosen(better, state.grad, state.best_grad)
    state.best_score = torch.where(better, score, state.best_score)


def _shorten(state: _State, period: int) -> None:
    """Halve the step, and go back to the best point, where the period's steps seldom helped or found nothing better."""
    stuck = ~state.halved & (state.score_at_check >= state.best_score)
    state.halved = (state.rises <= period * RISING) | stuck
    state.score_at_check, state.rises = state.best_score, torch.zeros_like(state.rises)
    state.step = chosen(state.halved, state.step / 2, state.step)
    state.point = chosen(state.halved, state.best, state.point)
    state.grad = chosen(state.halved, state.best_grad, state.grad)


def _ratio(c: Tensor) -> Score:
    """The targeted logit ratio, (z_c - z_y) over a distance between the largest logits, which no scale changes."""

    def ratio(logits: Tensor, y: Tensor) -> Tensor:
        largest = logits.sort(1).values
        spread = largest[:, -1] - 0.5 * (largest[:, -3] + largest[:, -4]) + 1e-12
        gap = logits.gather(1, y.unsqueeze(1)) - logits.gather(1, c.unsqueeze(1))
        return -gap.squeeze(1) / spread

    return ratio
