"""Attacks from their papers and published code, slow and literal: nothing of ``headstart`` is imported.

Images (B, C, H, W) are attacked one at a time. Only random numbers are drawn for several at once, in the order of the
library, so that the two can be compared number by number.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


def inside(x_adv: Tensor, x: Tensor, radius: float) -> Tensor:
    """Onto the maximum-norm ball of ``radius`` around x, then onto the image box."""
    return torch.min(torch.max(x_adv, x - radius), x + radius).clamp(0, 1)


def noise(x: Tensor, radius: float, generator: Generator) -> Tensor:
    return torch.empty_like(x).uniform_(-radius, radius, generator=generator)


def lead(logits: Tensor, y: int) -> float:
    """m = z_y - max_{j != y} z_j of one image's logits (K,)."""
    return (logits[y] - max(logits[j] for j in range(len(logits)) if j != y)).item()


def cross_entropy_gradient(net: nn.Module, point: Tensor, y: int) -> tuple[Tensor, Tensor]:
    """Gradient and logits at one image (C, H, W)."""
    point = point.clone().requires_grad_()
    logits = net(point[None])[0]
    (grad,) = torch.autograd.grad(F.cross_entropy(logits[None], torch.tensor([y])), point)
    return grad, logits.detach()


def constraint_relaxation(
    net: nn.Module, x: Tensor, y: Tensor, epsilon: float, classes: int, generator: Generator, rounds: int = 5
) -> Tensor:
    """The CR attack of FastAT Benchmark, with the clean image tried first and targets without samples skipped."""

    def m(point: Tensor, i: int) -> float:
        with torch.no_grad():
            return lead(net(point[None])[0], int(y[i]))

    result = list(x.clone())
    attacked = [i for i in range(len(x)) if m(x[i], i) >= 0]

    start = noise(x[attacked], epsilon, generator)
    for k, i in enumerate(attacked):
        point = (x[i] + start[k]).clamp(0, 1)
        if m(point, i) > 0:
            for j in range(10):
                grad, logits = cross_entropy_gradient(net, point, int(y[i]))
                if lead(logits, int(y[i])) < 0:
                    break
                point = inside(point + (0.25 if j == 5 else 0.5) * epsilon * grad.sign(), x[i], epsilon)
        result[i] = point

    promising_before: set[tuple[int, int]] = set()
    for r in range(rounds):
        promising: set[tuple[int, int]] = set()
        ranking = {}
        for i in attacked:
            order = net(result[i][None])[0].argsort(descending=True).tolist()
            ranking[i] = [c for c in order if c != y[i]]
        for t in range(math.ceil(math.log(classes))):
            work = [
                i for i in attacked if m(result[i], i) >= 0 and (r == 0 or (i, t) in promising_before)
            ]  # fmt: skip
            if not work:
                continue
            start = noise(x[work], epsilon, generator)
            points = {i: (x[i] + start[k]).clamp(0, 1) for k, i in enumerate(work)}
            s = 1.0
            for iteration in range(150):
                if not work:
                    break
                phase = iteration % 30
                if phase == 0:
                    s = max(s / 2, 0.05)
                if phase == 20:
                    shaken = noise(x[work], s * epsilon, generator)
                    for k, i in enumerate(work):
                        points[i] = (inside(points[i], x[i], (1 - s) * epsilon) + shaken[k]).clamp(0, 1)
                for i in list(work):
                    point = points[i].clone().requires_grad_()
                    logits = net(point[None])[0]
                    m_c = logits[y[i]] - logits[ranking[i][t]]
                    (grad,) = torch.autograd.grad(-m_c, point)
                    if phase > 10:
                        if m_c < 0.05:
                            promising.add((i, t))
                        if m_c < 0:
                            result[i] = points[i]
                        if m_c < 0 or (phase == 19 and m_c > s):
                            work.remove(i)
                            continue
                    radius = epsilon * (1 + s) if phase < 10 else epsilon
                    points[i] = inside(points[i] + s * epsilon * grad.sign(), x[i], radius)
                    if phase <= 10:
                        copy = inside(points[i], x[i], epsilon)
                        if m(copy, i) < 0.05:
                            promising.add((i, t))
                        if m(copy, i) < 0:
                            result[i] = copy
                            work.remove(i)
        promising_before = promising
    return torch.stack([inside(result[i], x[i], epsilon) for i in range(len(x))])


def fgsm(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """One sign step from the clean image."""
    steps = [epsilon * cross_entropy_gradient(net, x[i], int(y[i]))[0].sign() for i in range(len(x))]
    return torch.stack([(x[i] + steps[i]).clamp(0, 1) for i in range(len(x))])


def euclidean_pgd(
    net: nn.Module, x: Tensor, y: Tensor, start: Tensor, epsilon: float, alpha: float, steps: int
) -> Tensor:
    """Steps of length ``alpha`` along the gradient, drawn back into the ball; a fooled image stays where it is."""
    results = []
    for i in range(len(x)):
        point = (x[i] + start[i]).clamp(0, 1)
        for _ in range(steps):
            grad, logits = cross_entropy_gradient(net, point, int(y[i]))
            if logits.argmax() != y[i]:
                break
            delta = point + alpha * grad / grad.square().sum().sqrt() - x[i]
            length = delta.square().sum().sqrt()
            if length > epsilon:
                delta = delta * epsilon / length
            point = (x[i] + delta).clamp(0, 1)
        results.append(point)
    return torch.stack(results)


def auto_pgd(
    net: nn.Module, x: Tensor, y: Tensor, start: Tensor, epsilon: float, steps: int = 100
) -> tuple[Tensor, Tensor]:
    """Auto-PGD on the cross-entropy in the maximum norm (Croce & Hein, 2020), from the directions ``start``.

    Returns:
        Whether each image was misclassified at any iteration, and the first point at which it was; where at none, the
        point of the largest margin.
    """
    fooled = torch.zeros(len(x), dtype=torch.bool)
    x_adv = x.clone()
    nearest = torch.full((len(x),), float("-inf"))
    for i in range(len(x)):

        def at(point: Tensor, i: int = i) -> tuple[float, Tensor]:
            point = point.clone().requires_grad_()
            logits = net(point[None])
            loss = F.cross_entropy(logits, y[i : i + 1])
            (grad,) = torch.autograd.grad(loss, point)
            others = torch.cat([logits[0, : y[i]], logits[0, y[i] + 1 :]])
            gap = (others.max() - logits[0, y[i]]).item()
            if not fooled[i] and gap > nearest[i]:
                nearest[i], x_adv[i] = gap, point.detach()
            if logits.argmax() != y[i]:
                fooled[i] = True
            return loss.item(), grad

        point = (x[i] + epsilon * start[i] / start[i].abs().max()).clamp(0, 1)
        loss, grad = at(point)
        best = best_at_check = loss
        best_point, best_grad = point, grad
        eta, halved = 2 * epsilon, True
        losses: list[float] = []
        previous, window, since = point, 22, 0
        for k in range(steps):
            a = 1.0 if k == 0 else 0.75
            z = inside(point + eta * grad.sign(), x[i], epsilon)
            momentum, previous = point - previous, point
            point = inside(point + a * (z - point) + (1 - a) * momentum, x[i], epsilon)
            loss, grad = at(point)
            losses.append(loss)
            if loss > best:
                best, best_point, best_grad = loss, point, grad
            since += 1
            if since == window:
                recent = [0.0, *losses][-window - 1 :]  # the published code compares the very first loss with zero
                rises = sum(later > earlier for earlier, later in itertools.pairwise(recent))
                halve = rises <= 0.75 * window or (not halved and best_at_check >= best)
                if halve:
                    eta, point, grad = eta / 2, best_point, best_grad
                halved, best_at_check = halve, best
                window, since = max(window - 3, 6), 0
    return fooled, x_adv
