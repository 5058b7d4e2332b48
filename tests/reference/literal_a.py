"""The published updates of regularised, masked and multi-step methods, slow and literal; nothing of ``headstart``.

Every function makes one whole weight update and returns the loss, as in ``literal``. Passes stand in the order of
the library, wherever the published code's order or number differs only in how often running statistics move.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.reference.literal import clip_ball, clip_box, input_gradient, smoothed_cross_entropy


def uniform_start(x: Tensor, radius: float) -> Tensor:
    return clip_box(torch.zeros_like(x).uniform_(-radius, radius), x)


def update(optimizer: Optimizer, loss: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def zero_grad(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    q: float = 0.35,
    relative_alpha: float = 2.0,
    smoothing: float = 0.0,
) -> Tensor:
    """ZeroGrad, sample by sample, the quantile with linear interpolation by NumPy."""
    net.train()
    start = uniform_start(x, epsilon)
    g = input_gradient(net, x + start, y)
    for i in range(len(x)):
        tau = float(np.quantile(g[i].abs().numpy(), q))
        g[i][g[i].abs() < tau] = 0.0
    delta = clip_box(clip_ball(start + relative_alpha * epsilon * torch.sign(g), epsilon), x)
    x_adv = torch.clamp(x + delta, 0, 1)
    return update(optimizer, smoothed_cross_entropy(net(x_adv), y, smoothing))


def multi_grad(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    n: int = 3,
    t: int = 3,
    smoothing: float = 0.0,
) -> Tensor:
    """MultiGrad, serial: a coordinate moves where at least t of n signs are the same."""
    net.train()
    signs = torch.stack([torch.sign(input_gradient(net, x + uniform_start(x, epsilon), y)) for _ in range(n)])
    total = signs.sum(0)
    direction = torch.zeros_like(x)
    direction[total >= 2 * t - n] = 1.0
    direction[total <= -(2 * t - n)] = -1.0
    delta = clip_box(clip_ball(2 * epsilon * direction, epsilon), x)
    return update(optimizer, smoothed_cross_entropy(net(x + delta), y, smoothing))


def grad_align(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    weight: float = 0.2,
    smoothing: float = 0.0,
) -> Tensor:
    """GradAlign with the published step of 1.25 epsilon; samples without gradient are picked out."""
    net.train()
    g1 = input_gradient(net, x, y)
    delta = clip_box(clip_ball(1.25 * epsilon * torch.sign(g1), epsilon), x)
    loss = smoothed_cross_entropy(net(x + delta), y, smoothing)
    eta = torch.zeros_like(x).uniform_(-epsilon, epsilon).requires_grad_(True)
    (g2,) = torch.autograd.grad(F.cross_entropy(net(x + eta), y), [eta], create_graph=True)
    n1, n2 = g1.pow(2).sum((1, 2, 3)).sqrt(), g2.pow(2).sum((1, 2, 3)).sqrt()
    both = (n1 != 0) & (n2 != 0)
    u1 = g1[both] / n1[both][:, None, None, None]
    u2 = g2[both] / n2[both][:, None, None, None]
    return update(optimizer, loss + weight * (1 - (u1 * u2).sum((1, 2, 3)).mean()))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) per sample, of probabilities."""
    return (p * (p.log() - q.log())).sum(1)


def start_of_trades(x: Tensor) -> Tensor:
    return x + 0.001 * torch.randn_like(x)


def trades_attack(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int, alpha: float) -> Tensor:
    """x' of TRADES; f(x) anew in every step, in evaluation mode."""
    net.eval()
    x_adv = start_of_trades(x)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        divergence = F.kl_div(F.log_softmax(net(x_adv), 1), F.softmax(net(x), 1), reduction="sum")
        (g,) = torch.autograd.grad(divergence, [x_adv])
        x_adv = x_adv.detach() + alpha * torch.sign(g)
        x_adv = torch.clamp(torch.min(torch.max(x_adv, x - epsilon), x + epsilon), 0.0, 1.0)
    net.train()
    return x_adv


def trades_loss(net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    adversarial, clean = net(x_adv), net(x)
    divergence = kl(F.softmax(clean, 1), F.softmax(adversarial, 1)).sum() / len(x)
    return smoothed_cross_entropy(clean, y, smoothing) + beta * divergence


def trades(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    beta: float = 6.0,
    steps: int = 10,
    smoothing: float = 0.0,
) -> Tensor:
    """TRADES at its step size of 0.007 for epsilon 0.031."""
    x_adv = trades_attack(net, x, y, epsilon, steps, 0.007 / 0.031 * epsilon)
    return update(optimizer, trades_loss(net, x, x_adv, y, beta, smoothing))


def mart(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, beta: float = 5.0, steps: int = 10
) -> Tensor:
    """MART, the runner-up class found by sorting."""
    net.eval()
    x_adv = start_of_trades(x)
    for _ in range(steps):
        x_adv = x_adv + 0.007 / 0.031 * epsilon * torch.sign(input_gradient(net, x_adv, y))
        x_adv = torch.clamp(torch.min(torch.max(x_adv, x - epsilon), x + epsilon), 0.0, 1.0)
    net.train()
    adversarial, clean = net(x_adv), net(x)
    p_adv, p = F.softmax(adversarial, 1), F.softmax(clean, 1)
    loss = F.cross_entropy(adversarial, y)
    for i in range(len(x)):
        order = [k for k in torch.argsort(p_adv[i], descending=True).tolist() if k != int(y[i])]
        loss = loss - torch.log(1.0001 - p_adv[i, order[0]] + 1e-12) / len(x)
    weight = 1.0000001 - p[range(len(x)), y]
    return update(optimizer, loss + beta * (kl(p, p_adv) * weight).mean())


def aaer(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    noise: float,
    relative_alpha: float,
    project: bool,
    l2: float,
    l3: float,
    smoothing: float = 0.0,
) -> Tensor:
    """RS-AAER and N-AAER; the two sets picked out by indexing."""
    net.train()
    delta = uniform_start(x, noise * epsilon).requires_grad_(True)
    before = net(x + delta)
    (g,) = torch.autograd.grad(F.cross_entropy(before, y), [delta])
    delta = delta.detach() + relative_alpha * epsilon * torch.sign(g)
    if project:
        delta = clip_ball(delta, epsilon)
    after = net(x + clip_box(delta, x))
    loss = smoothed_cross_entropy(after, y, smoothing)
    loss_before = F.cross_entropy(before, y, reduction="none").detach()
    loss_after = F.cross_entropy(after, y, reduction="none").detach()
    abnormal = torch.nonzero(loss_before > loss_after).flatten()
    normal = torch.nonzero(loss_before <= loss_after).flatten()
    if len(abnormal) and len(normal):
        variation = ((before.detach() - after) ** 2).sum(1)
        excess = variation[abnormal].mean() - variation[normal].mean().item()
        drop = (loss_before - loss_after)[abnormal].mean()
        term = l2 * drop + l3 * (excess if excess.item() > 0 else 0.0)
        loss = loss + len(abnormal) / len(x) * term
    return update(optimizer, loss)


def linearity_error(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    a = x + torch.zeros_like(x).uniform_(-epsilon, epsilon)
    b = x + torch.zeros_like(x).uniform_(-epsilon, epsilon)
    t = torch.rand(len(x), 1, 1, 1, dtype=x.dtype)
    losses = F.cross_entropy(net(torch.cat([a, b, (1 - t) * a + t * b])), torch.cat([y, y, y]), reduction="none")
    ce_a, ce_b, ce_c = losses[: len(x)], losses[len(x) : 2 * len(x)], losses[2 * len(x) :]
    t = t.flatten()
    return ((ce_c - (1 - t) * ce_a - t * ce_b) ** 2).mean()


class Elle:
    """ELLE at a constant lambda, or ELLE-A (``largest``) with the list of all past errors; the list is NumPy's.

    ``benchmark``: the attack of FastAT Benchmark's ELLE, a boxed uniform start, a step of 1.25 epsilon, and the box.
    """

    def __init__(
        self,
        weight: float = 1000.0,
        largest: float | None = None,
        noise: float = 0.0,
        s: float = 2.0,
        benchmark: bool = False,
    ) -> None:
        self.weight, self.largest, self.noise, self.s = (0.0 if largest else weight), largest, noise, s
        self.benchmark = benchmark
        self.errors: list[float] = []
        self.weights: list[float] = []

    def __call__(
        self, net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, smoothing: float = 0.0
    ) -> Tensor:
        net.train()
        start = torch.zeros_like(x)
        if self.noise:
            start.uniform_(-self.noise * epsilon, self.noise * epsilon)
        if self.benchmark:
            start = clip_box(torch.zeros_like(x).uniform_(-epsilon, epsilon), x)
            delta = start + 1.25 * epsilon * torch.sign(input_gradient(net, x + start, y))
            delta = torch.clamp(x + delta, 0, 1) - x
        else:
            delta = start + epsilon * torch.sign(input_gradient(net, x + start, y))
        loss = smoothed_cross_entropy(net(x + delta), y, smoothing)
        error = linearity_error(net, x, y, epsilon)
        loss = update(optimizer, loss + self.weight * error)
        if self.largest:
            threshold = np.mean(self.errors) + self.s * np.std(self.errors) if self.errors else np.inf
            stands_out = len(self.errors) > 2 and error.item() > threshold
            self.weight = self.largest if stands_out else self.weight * 0.99
            self.errors.append(error.item())
            self.weights.append(self.weight)
        return loss


Distance = Callable[[Tensor, Tensor], Tensor]


def squared_distance(z: Tensor, other: Tensor) -> Tensor:
    return ((F.softmax(z, 1) - F.softmax(other, 1)) ** 2).sum(1).mean(0)


def nuclear_distance(z: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.svdvals(z - other).sum() / len(z)


def guided(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    batch: int,
    weight: float,
    distance: Distance,
    smoothing: float = 0.0,
    attack_smoothing: float = 0.0,
    attack_in_eval: bool = True,
) -> Tensor:
    """GAT and NuAT; the clean pass is taken once, before the attack, and its logits serve attack and loss."""
    net.train()
    clean = net(x)
    net.train(not attack_in_eval)
    x_adv = torch.clamp(x + epsilon / 2 * torch.sign(0.5 - torch.rand_like(x)), 0, 1).requires_grad_(True)
    adversarial = net(x_adv)
    score = smoothed_cross_entropy(adversarial, y, attack_smoothing)
    if batch % 2 == 1:
        score = score + weight * distance(clean.detach(), adversarial)
    (g,) = torch.autograd.grad(score, [x_adv])
    x_adv = torch.clamp(x_adv.detach() + epsilon * torch.sign(g), 0, 1)
    x_adv = torch.clamp(x + torch.clamp(x_adv - x, -epsilon, epsilon), 0, 1)
    net.train()
    loss = smoothed_cross_entropy(clean, y, smoothing) + weight * distance(clean, net(x_adv))
    return update(optimizer, loss)


def ssat(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    c: int = 3,
    smoothing: float = 0.0,
    attack_smoothing: float = 0.0,
    attack_in_eval: bool = True,
) -> Tensor:
    """SSAT, one image at a time along its checkpoints."""
    net.train(not attack_in_eval)
    delta = uniform_start(x, epsilon).requires_grad_(True)
    z0 = net(x + delta)
    (g,) = torch.autograd.grad(smoothed_cross_entropy(z0, y, attack_smoothing), [delta])
    d = clip_box(clip_ball(delta.detach() + 1.25 * epsilon * torch.sign(g), epsilon), x)
    net.eval()
    images = []
    for i in range(len(x)):
        if int(z0[i].argmax()) != int(y[i]):
            images.append(x[i])
            continue
        for j in range(1, c + 1):
            image = x[i] + j / c * d[i]
            with torch.no_grad():
                if j == c or int(net(image[None]).argmax()) != int(y[i]):
                    break
        images.append(image)
    net.train()
    return update(optimizer, smoothed_cross_entropy(net(torch.stack(images)), y, smoothing))


def awp(
    net: nn.Module, optimizer: Optimizer, loss_of: Callable[[nn.Module], Tensor], gamma: float, proxy_lr: float = 0.01
) -> Tensor:
    """AWP around a loss: a copy of the network climbs, the network moves there, steps, and moves back."""
    proxy = copy.deepcopy(net)
    proxy.train()
    climb = torch.optim.SGD(proxy.parameters(), proxy_lr)
    update(climb, -loss_of(proxy))
    moves = {}
    for (name, w), moved in zip(net.named_parameters(), proxy.parameters(), strict=True):
        if w.dim() > 1:
            difference = (moved - w).detach()
            moves[name] = w.detach().norm() / (difference.norm() + 1e-20) * difference
    with torch.no_grad():
        for name, w in net.named_parameters():
            if name in moves:
                w.add_(gamma * moves[name])
    loss = update(optimizer, loss_of(net))
    with torch.no_grad():
        for name, w in net.named_parameters():
            if name in moves:
                w.sub_(gamma * moves[name])
    return loss


def pgd_at_awp(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, gamma: float = 0.01, steps: int = 10
) -> Tensor:
    """PGD-AT with AWP; attack passes in training mode."""
    net.train()
    delta = uniform_start(x, epsilon)
    for _ in range(steps):
        delta = clip_box(clip_ball(delta + 0.25 * epsilon * torch.sign(input_gradient(net, x + delta, y)), epsilon), x)
    return awp(net, optimizer, lambda f: F.cross_entropy(f(x + delta), y), gamma)


def trades_awp(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, gamma: float = 0.005, steps: int = 10
) -> Tensor:
    """TRADES with AWP, at the AWP authors' step size."""
    x_adv = trades_attack(net, x, y, epsilon, steps, 0.25 * epsilon)
    return awp(net, optimizer, lambda f: trades_loss(f, x, x_adv, y, 6.0), gamma)
