"""Projected gradient descent on the image: the multi-step attack."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import Score, find_score, input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError

LONGEST = 8
"""Steps of the longest cycle that is looked for; nearly all are of one step or two."""


def usual_step(threat: ThreatModel) -> float:
    """2/255 in the maximum norm for epsilon of 8/255 to 16/255, the range it was chosen for; else epsilon/4.

    Ten steps of 2/255 do not cross a larger ball, and in a smaller one they jump from corner to corner.
    """
    usual = threat.norm == "linf" and 8 / 255 <= threat.epsilon <= 16 / 255
    return 2 / 255 if usual else threat.epsilon / 4


@torch.no_grad()
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    alpha: float | None = None,
    restarts: int = 1,
    score: str = "ce",
    generator: Generator | None = None,
    cycles: bool = False,
) -> Tensor:
    """PGD from a uniform start in the ball (Madry et al., 2018, arXiv:1706.06083).

    A sample once fooled is frozen, so later steps cannot undo the success. This is the form of the published
    FGSM-SDI evaluation; the plain form, which moves every sample to the end, is slightly weaker. Of several
    restarts the one with the largest margin is kept; the published code compares the cross-entropy, which can
    trade a fooled sample for one that is not.

    A sample that comes back to a point where it was goes round in a cycle from then on, and one that is fooled stays.
    With ``cycles``, on a CPU, such samples are moved no further than to the point where the last step would leave them
    (after Doldo et al., 2025, arXiv:2503.19347): the examples are the same.

    Nothing else waits for the device inside a run; each further restart waits once, and runs only on what is correct.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.
        steps: ascent steps, each with one forward and one backward pass.
        alpha: step size in pixel fractions; default ``usual_step``.
        restarts: independent starts.
        score: what is maximised: "ce" cross-entropy, or "margin" for the C&W margin max_{j != y} z_j - z_y.
        generator: source of the starts, on the device of ``x``; the global one where None.
        cycles: stop samples that go round in a cycle; for models that give an image the same logits in any company.

    Returns:
        Adversarial examples inside the threat model, of the shape of ``x``.

    Raises:
        SettingError: no steps or restarts, alpha negative, or an unknown score.
    """
    if steps < 1 or restarts < 1:
        raise SettingError(f"PGD with {steps} steps and {restarts} restarts; both must be at least 1")
    if alpha is None:
        alpha = usual_step(threat)
    if alpha < 0:
        raise SettingError(f"alpha is {alpha:g}; it must be a pixel fraction of at least 0, such as 2/255")
    objective = find_score(score)
    run = _until_repeated if cycles and x.device.type == "cpu" else _run
    x_adv = run(model, x, y, threat, steps, alpha, objective, generator)
    for _ in range(restarts - 1):
        strength = margin(model(x_adv), y)
        left = (strength <= 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        again = run(model, x[left], y[left], threat, steps, alpha, objective, generator)
        better = margin(model(again), y[left]) > strength[left]
        x_adv[left[better]] = again[better]
    return x_adv


def _run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    steps: int,
    alpha: float,
    objective: Score,
    generator: Generator | None,
) -> Tensor:
    delta = threat.box(x, threat.uniform(x, generator=generator))
    for _ in range(steps):
        delta = _step(model, x, y, delta, threat, alpha, objective)
    return x + delta


def _step(
    model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, threat: ThreatModel, alpha: float, objective: Score
) -> Tensor:
    grad, logits = input_gradient(model, x + delta, y, objective)
    moved = threat.box(x, threat.project(delta + alpha * threat.direction(grad)))
    return chosen(logits.argmax(1) == y, moved, delta)


def _until_repeated(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    steps: int,
    alpha: float,
    objective: Score,
    generator: Generator | None,
) -> Tensor:
    """``_run``, in which a sample that is where it was ``length`` steps ago goes on for (steps left) % ``length``."""
    delta = threat.box(x, threat.uniform(x, generator=generator))
    result, rows, left = torch.empty_like(delta), torch.arange(len(y)), torch.full((len(y),), steps)
    mark, since = delta, 0  # where the samples were, and how many steps ago
    for _ in range(steps):
        moving = left > 0
        if not bool(moving.all()):
            result[rows[~moving]] = delta[~moving]
            rows, left, delta, mark = (t[moving] for t in (rows, left, delta, mark))
            if len(rows) == 0:
                break
        was = mark
        delta = _step(model, x[rows], y[rows], delta, threat, alpha, objective)
        left, since = left - 1, since + 1
        repeated = (delta == was).flatten(1).all(1)
        left = torch.where(repeated, left % since, left)
        if since == LONGEST:
            mark, since = delta, 0
    result[rows] = delta
    return x + result
