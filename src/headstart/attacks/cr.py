"""The constraint-relaxation attack: targeted steps that may leave the ball for a while."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import Score, cross_entropy, input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError

ITERATIONS, PERIOD, ROUNDS = 150, 30, 5
RELAXED, HOPELESS, SHRINK = PERIOD // 3, 2 * PERIOD // 3 - 1, 2 * PERIOD // 3
"""Iterations of a period before which the ball is wider, at which hopeless samples leave, at which noise is added."""
PROMISING = 0.05
"""Logit difference below which a sample is tried against the same target in the next round too."""


@torch.no_grad()
def cr_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    rounds: int = ROUNDS,
    generator: Generator | None = None,
) -> Tensor:
    """Ten steps of PGD, then rounds of targeted descents whose ball is now wider and now as it is.

    The attack of FastAT Benchmark. It makes about a hundred passes per image where AutoAttack makes thousands, and
    finds about as much on models without gradient masking; on masked ones it finds less, so it must not stand alone.
    Differences from the published code: images that are misclassified when clean are returned as they are, and a
    target for which no sample is left is skipped, where the code gives up the targets after it as well.

    The host looks at the results of every step, since samples that are fooled leave the batch at once.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model; norm linf.
        rounds: over each sample's targets, the ceil(ln K) likeliest wrong classes.
        generator: source of the random starts, on the device of ``x``; the global one where None.

    Returns:
        Adversarial examples inside the threat model, of the shape of ``x``.

    Raises:
        SettingError: a norm other than linf, or no rounds.
    """
    if threat.norm != "linf":
        raise SettingError(f"the CR attack is for norm linf, not {threat.norm!r}; AutoAttack is for both")
    if rounds < 1:
        raise SettingError(f"the CR attack has {rounds} rounds; it must have at least 1")
    x_adv = x.clone()
    left = (margin(model(x), y) <= 0).nonzero().squeeze(1)
    if len(left) == 0:
        return x_adv
    x_adv[left] = _short_pgd(model, x[left], y[left], threat, generator)
    logits = model(x_adv[left])
    standing = margin(logits, y[left]) <= 0
    left, logits = left[standing], logits[standing]
    wrong_first = logits.scatter(1, y[left].unsqueeze(1), float("-inf")).argsort(1, descending=True)
    targets = wrong_first[:, : math.ceil(math.log(logits.shape[1]))]  # (L, T)
    _rounds(model, x, y, threat, x_adv, left, targets, rounds, generator)
    return x_adv


def _rounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    x_adv: Tensor,
    left: Tensor,
    targets: Tensor,
    rounds: int,
    generator: Generator | None,
) -> None:
    """Put what fools the model into ``x_adv``, for the rows ``left`` (L,) with their ``targets`` (L, T)."""
    fooled = torch.zeros_like(left, dtype=torch.bool)
    tried = torch.ones_like(targets, dtype=torch.bool)
    for _ in range(rounds):
        promising = torch.zeros_like(tried)
        for t in range(targets.shape[1]):
            work = (tried[:, t] & ~fooled).nonzero().squeeze(1)
            if len(work):
                rows = left[work]
                found, fooled[work], promising[work, t] = _descend(
                    model, x[rows], y[rows], targets[work, t], threat, generator
                )
                x_adv[rows] = chosen(fooled[work], found, x_adv[rows])
        tried = promising


def _short_pgd(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None) -> Tensor:
    """Sign steps of epsilon/2 on the cross-entropy from a uniform start; a fooled sample stays where it is."""
    delta = threat.box(x, threat.uniform(x, generator=generator))
    moving = torch.ones_like(y, dtype=torch.bool)
    for step in range(PERIOD // 3):
        grad, logits = input_gradient(model, x + delta, y, cross_entropy)
        moving &= margin(logits, y) < 0 if step == 0 else margin(logits, y) <= 0
        # The published code means to decay the step from here on, and resets it.
        alpha = (0.25 if step == PERIOD // 6 else 0.5) * threat.epsilon
        moved = threat.box(x, threat.project(delta + alpha * grad.sign()))
        delta = chosen(moving, moved, delta)
    return x + delta


def _descend(
    model: nn.Module, x: Tensor, y: Tensor, c: Tensor, threat: ThreatModel, generator: Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower z_y - z_c, c the target (B,), from a fresh start.

    Returns:
        Adversarial examples where the model is fooled, else ``x``; where it is fooled, and where it came near, (B,).
    """
    x_adv = x.clone()
    fooled, promising = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)  # of the samples still moved, as delta holds them
    delta, scale = threat.box(x, threat.uniform(x, generator=generator)), 1.0

    def standing(gap: Tensor, point: Tensor) -> Tensor:
        """Note who is fooled, or nearly so, at ``point``; who is not, bool (len(rows),)."""
        promising[rows] |= gap < PROMISING
        done = gap < 0
        fooled[rows[done]] = True
        x_adv[rows[done]] = point[done]
        return ~done

    for i in range(ITERATIONS):
        if len(rows) == 0:
            break
        phase = i % PERIOD
        if phase == 0:
            scale = max(scale / 2, 0.05)
        if phase == SHRINK:
            inner = (1 - scale) * threat.epsilon
            delta = threat.box(x[rows], delta.clamp(-inner, inner))
            delta = threat.box(x[rows], delta + threat.uniform(delta, scale, generator=generator))
        towards = _lead_of(c[rows])
        grad, logits = input_gradient(model, x[rows] + delta, y[rows], towards)
        if phase > RELAXED:
            gap = -towards(logits, y[rows])
            stays = standing(gap, x[rows] + delta)
            if phase == HOPELESS:
                stays &= gap <= scale
            rows, delta, grad = rows[stays], delta[stays], grad[stays]
        radius = threat.epsilon * (1 + scale if phase < RELAXED else 1)
        delta = threat.box(x[rows], (delta + scale * threat.epsilon * grad.sign()).clamp(-radius, radius))
        if phase <= RELAXED:
            inside = x[rows] + threat.box(x[rows], threat.project(delta))
            stays = standing(-margin(model(inside), y[rows]), inside)
            rows, delta = rows[stays], delta[stays]
    return x_adv, fooled, promising


def _lead_of(c: Tensor) -> Score:
    """The score z_c - z_y."""

    def lead(logits: Tensor, y: Tensor) -> Tensor:
        return (logits.gather(1, c.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)

    return lead
