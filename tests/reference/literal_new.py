"""Literal updates of SORA, TDAT and ATAS, straight from their equations and their authors' code; see ``literal``.

Every class is one method: ``step`` makes one whole weight update and returns the loss. Samples are treated one by one,
and the numbers that a method carries along are Python's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.reference.literal import clip_ball, clip_box, cross_entropy_with, label_distribution, smoothed_cross_entropy


class Literal:
    """A network and its optimiser; ``geometry`` (B, 3) is top, left and flip of every sample of the batch."""

    geometry: Tensor | None = None

    def __init__(self, net: nn.Module, optimizer: Optimizer, epsilon: float) -> None:
        self.net, self.optimizer, self.epsilon = net, optimizer, epsilon


class Sora(Literal):
    """Step sizes are drawn per entry; ``linearity`` follows the gradient that the weight update leaves at delta."""

    linearity, theta, largest, smoothing = 0.99, 0.05, 2.0, 0.0

    def step(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        self.net.train()
        share = 1.0 if self.linearity == 1 else min(1.0, 0.02 / (1 - self.linearity))
        alpha = share * self.largest * self.epsilon
        noise = clip_box(torch.empty_like(x).uniform_(-self.epsilon, self.epsilon), x).requires_grad_()
        (g,) = torch.autograd.grad(smoothed_cross_entropy(self.net(x + noise), y, self.smoothing), noise)
        delta = clip_box(noise.detach() + alpha * torch.rand_like(g) * g.sign(), x).requires_grad_()
        loss = smoothed_cross_entropy(self.net(x + delta), y, self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        assert delta.grad is not None
        ratios = []
        for before, after in zip(g, delta.grad, strict=True):
            ratios.append((before.sign() * after).sum().item() / max(before.abs().sum().item(), 1e-12))
        mean = max(-1.0, min(1.0, sum(ratios) / len(ratios)))
        self.linearity = (1 - self.theta) * self.linearity + self.theta * mean
        return loss.detach()


class TDAT(Literal):
    """``momentum`` is the paper's; 0 is what its code comes to."""

    epochs, beta, floor, weight, momentum = 4, 0.6, 0.15, 0.6, 0.0
    carried: Tensor

    def step(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        self.net.train()
        gamma = math.tan(1 - epoch / self.epochs) * self.beta
        if gamma < self.floor:
            gamma = self.floor
        if epoch == 0 and batch == 0:
            signs = torch.empty(len(x), x[0].numel()).bernoulli_(0.5) * 2 - 1
            c, h, w = x.shape[1:]
            self.carried = self.epsilon * signs.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        start = self.carried[: len(x)].clone().requires_grad_()
        z0 = self.net(x + start)
        relaxed = label_distribution(y, z0.shape[1], gamma, z0)
        (g,) = torch.autograd.grad(cross_entropy_with(z0, relaxed), start, retain_graph=True)
        delta = clip_box(clip_ball(start.detach() + self.epsilon * g.sign(), self.epsilon), x)
        mixed = self.momentum * start.detach() + (1 - self.momentum) * delta
        self.carried = torch.cat([mixed, self.carried[len(x) :]])
        z = self.net(x + delta)
        loss = smoothed_cross_entropy(z, y, 1 - gamma)
        for i in range(len(y)):
            p = torch.softmax(z0[i], 0)[y[i]]
            loss = loss + self.weight / len(y) * ((z0[i] - z[i]) ** 2).sum() * torch.tanh(1.0000001 - p)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class ATAS(Literal):
    """A table in the frame of the padded images, and a moving gradient norm of every sample; ``unit`` rounds it."""

    n, epochs, pad, warmup, reset, unit = 21, 4, 2, 1, 2, None
    c, beta, scale, low, high, smoothing = 0.01, 0.5, 2.0, 0.5, 1.75, 0.0
    table: Tensor
    norms: list[float]

    def draw(self, x: Tensor) -> None:
        c, h, w = x.shape[1], x.shape[2] + 2 * self.pad, x.shape[3] + 2 * self.pad
        drawn = torch.empty(self.n, h * w * c)
        if self.unit is None:
            drawn.uniform_(-self.epsilon, self.epsilon)
        else:
            steps = round(self.epsilon / self.unit)
            drawn = torch.empty(drawn.shape, dtype=torch.int8).random_(-steps, steps + 1).float() * self.unit
        self.table = drawn.reshape(self.n, h, w, c).permute(0, 3, 1, 2).contiguous()

    def step(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        if epoch == 0 and batch == 0:
            self.draw(x)
            self.norms = [0.0] * self.n
        elif (epoch + 1) % self.reset == 0 and epoch + 1 != self.epochs and batch == 0:
            self.draw(x)
        h, w = x.shape[2:]
        places = self.geometry.tolist() if self.geometry is not None else [[self.pad, self.pad, 0]] * len(x)
        crops = []
        for i, (top, left, flipped) in zip(index, places, strict=True):
            crop = self.table[i, :, top : top + h, left : left + w]
            crops.append(crop.flip(2) if flipped else crop)
        nearest = (x + torch.stack(crops)).clamp(0, 1).requires_grad_()
        self.net.eval()
        (g,) = torch.autograd.grad(F.cross_entropy(self.net(nearest), y), nearest)
        moved = []
        for k, i in enumerate(index):
            alpha = self.epsilon
            if epoch >= self.warmup:
                norm = self.beta * self.norms[i] + (1 - self.beta) * g[k].norm().item() ** 2
                self.norms[i] = norm
                size = self.scale * self.epsilon / (1 + math.sqrt(norm) / self.c)
                alpha = min(max(size, self.low * self.epsilon), self.high * self.epsilon)
            step = nearest[k].detach() + alpha * g[k].sign() - x[k]
            moved.append(clip_box(clip_ball(step, self.epsilon), x[k]))
        delta = torch.stack(moved)
        self.net.train()
        loss = smoothed_cross_entropy(self.net(x + delta), y, self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for k, (i, (top, left, flipped)) in enumerate(zip(index, places, strict=True)):
            kept = delta[k].flip(2) if flipped else delta[k]
            kept = kept if self.unit is None else (kept / self.unit).round() * self.unit
            self.table[i, :, top : top + h, left : left + w] = kept
        return loss.detach()
