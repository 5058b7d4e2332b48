"""Projected gradient descent on the image: the multi-step attack."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import Score, find_score, input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError


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
) -> Tensor:
    """PGD from a uniform start in the ball (Madry et al., 2018, arXiv:1706.06083).

    A sample once fooled is frozen, so later steps cannot undo the success. This is the form of the published
    FGSM-SDI evaluation; the plain form, which moves every sample to the end, is slightly weaker. Of several
    restarts the one with the largest margin is kept; the published code compares the cross-entropy, which can
    trade a fooled sample for one that is not.

    Nothing waits for the device inside a run; each further restart waits once, and runs only on what is still correct.

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
    x_adv = _run(model, x, y, threat, steps, alpha, objective, generator)
    for _ in range(restarts - 1):
        strength = margin(model(x_adv), y)
        left = (strength <= 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        again = _run(model, x[left], y[left], threat, steps, alpha, objective, generator)
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
        grad, logits = input_gradient(model, x + delta, y, objective)
        moved = threat.box(x, threat.project(delta + alpha * threat.direction(grad)))
        correct = (logits.argmax(1) == y).view(-1, 1, 1, 1)
        delta = torch.where(correct, moved, delta)
    return x + delta
