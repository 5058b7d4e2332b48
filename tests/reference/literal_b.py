"""Literal updates of the methods with state of their own, straight from their equations; see ``literal``.

Every class is one method: ``step`` makes one whole weight update and returns the loss. Samples are treated one by one
where the method speaks of a sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.reference.literal import (
    clip_ball,
    clip_box,
    cross_entropy_with,
    input_gradient,
    label_distribution,
    smoothed_cross_entropy,
)


def project(delta: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """P: ball, then box."""
    return clip_box(clip_ball(delta, epsilon), x)


def ls(logits: Tensor, y: Tensor, true_weight: float) -> Tensor:
    """CE with LS_p."""
    return cross_entropy_with(logits, label_distribution(y, logits.shape[1], true_weight, logits))


def corners(n: int, like: Tensor, radius: float) -> Tensor:
    """(n, C, H, W) of +-radius, drawn pixel by pixel with the channel last."""
    c, h, w = like.shape[1:]
    drawn = torch.empty(n, h * w * c).bernoulli_(0.5)
    return torch.where(drawn == 1, radius, -radius).reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()


class Literal:
    """A network and its optimiser."""

    def __init__(self, net: nn.Module, optimizer: Optimizer, epsilon: float) -> None:
        self.net, self.optimizer, self.epsilon = net, optimizer, epsilon

    def step(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, batch: int) -> Tensor:
        self.net.train()
        self.optimizer.zero_grad()
        loss = self.loss(x, y, index.tolist(), epoch, batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        raise NotImplementedError

    def start(self, x: Tensor, delta0: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Logits at x + delta0 with their graph, and the gradient of ``loss`` there."""
        point = (x + delta0).detach().requires_grad_()
        z0 = self.net(point)
        (g,) = torch.autograd.grad(loss(z0), point, retain_graph=True)
        return z0, g


# -- templates -------------------------------------------------------------------------------------------------------


def random_label_smoothing(logits: Tensor, y: Tensor, s: float) -> Tensor:
    """CE with 1 - s on the true class and s over the others, in proportion to uniform random numbers."""
    weights = torch.rand(logits.shape)
    total = torch.zeros(())
    for i in range(len(y)):
        weights[i, y[i]] = 0
        q = s * weights[i] / weights[i].sum()
        q[y[i]] = 1 - s
        total = total - (q * torch.log(torch.softmax(logits[i], 0))).sum()
    return total / len(y)


def js(a: Tensor, b: Tensor) -> Tensor:
    p, q = torch.softmax(a, 1), torch.softmax(b, 1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(1) / 2 + (q * (q / m).log()).sum(1) / 2).mean()


class LIET(Literal):
    """s, lambda, replacement range, period and whether the step is projected are those of the published tables."""

    def __init__(
        self, *args: object, s: float, weight: float, r: tuple[float, float], every: int, epochs: int, large: bool
    ) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.s, self.weight, self.r, self.every, self.epochs, self.large = s, weight, r, every, epochs, large

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        eps = self.epsilon
        if batch % self.every == 0:
            self.net.eval()
            grey = torch.full((10, *x.shape[1:]), 0.5, requires_grad=True)
            loss = random_label_smoothing(self.net(grey), torch.arange(10), self.s)
            self.templates = eps * torch.autograd.grad(loss, grey)[0].sign()
            self.net.train()
        rate = torch.empty(()).uniform_(*self.r).item()
        radius = 2 * eps if self.large else eps
        noise = torch.empty(x.shape).uniform_(-radius, radius)
        replaced = torch.rand(x.shape) < rate
        delta0 = torch.where(replaced, noise, self.templates[y])
        x0 = (x + (delta0 if torch.randint(0, 2, ()).item() == 1 else -delta0)).clamp(0, 1)
        z0, g = self.start(x, x0 - x, lambda z: random_label_smoothing(z, y, self.s))
        delta = x0 - x + eps * g.sign()
        delta = clip_box(delta, x) if self.large else project(delta, x, eps)
        z = self.net(x + delta)
        ramp = self.weight * (epoch + 1) / self.epochs
        return random_label_smoothing(z, y, self.s) + ramp * js(z0, z)


# -- memory ----------------------------------------------------------------------------------------------------------


class Free:
    """m replays of a batch, each an update of the weights and of the carried delta."""

    def __init__(self, net: nn.Module, optimizer: Optimizer, epsilon: float, shape: tuple[int, ...], box: bool) -> None:
        self.net, self.optimizer, self.epsilon, self.box = net, optimizer, epsilon, box
        self.delta = torch.zeros(shape)

    def step(self, x: Tensor, y: Tensor, replays: int) -> list[Tensor]:
        self.net.train()
        losses = []
        for _ in range(replays):
            carried = self.delta[: len(x)]
            delta = (clip_box(carried, x) if self.box else carried.clone()).requires_grad_()
            loss = F.cross_entropy(self.net(x + delta), y)
            self.optimizer.zero_grad()
            loss.backward()
            assert delta.grad is not None
            self.delta[: len(x)] = project(delta.detach() + self.epsilon * delta.grad.sign(), x, self.epsilon)
            self.optimizer.step()
            losses.append(loss.detach())
        return losses


class BP(Literal):
    """``box_start`` as in FastAT Benchmark: the gradient at an image, the step from the perturbation itself."""

    weight, p, box_start = 10.0, 0.6, False
    delta: Tensor

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        if epoch == 0 and batch == 0:
            self.delta = corners(len(x), x, self.epsilon)
        delta0 = self.delta[: len(x)].clone()
        at = clip_box(delta0, x) if self.box_start else delta0
        z0, g = self.start(x, at, lambda z: ls(z, y, self.p))
        self.delta[: len(x)] = delta = project(delta0 + self.epsilon * g.sign(), x, self.epsilon)
        z = self.net(x + delta)
        return ls(z, y, self.p) + self.weight * ((z - z0) ** 2).mean()


class EP(Literal):
    """With ``unit``, what is stored is rounded to its multiples."""

    weight, p, reset, n = 10.0, 0.6, 2, 21
    unit: float | None = None
    box_start = False

    def store(self, delta: Tensor) -> Tensor:
        return delta if self.unit is None else (delta / self.unit).round() * self.unit

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        self.reset_if_due(x, epoch, batch)
        delta0 = torch.stack([self.delta[i] for i in index])
        x0 = (x + delta0).clamp(0, 1) if self.box_start else x + delta0
        z0, g = self.start(x0, torch.zeros_like(x), lambda z: ls(z, y, self.p))
        delta = project(delta0 + self.epsilon * g.sign(), x, self.epsilon)
        self.remember(x, index, delta0, delta, g)
        return self.final(x, y, z0, delta)

    def reset_if_due(self, x: Tensor, epoch: int, batch: int) -> None:
        if epoch % self.reset == 0 and batch == 0:
            self.delta = list(self.store(corners(self.n, x, self.epsilon)))
            self.v = [torch.zeros_like(x[0]) for _ in range(self.n)]

    def remember(self, x: Tensor, index: list[int], delta0: Tensor, delta: Tensor, g: Tensor) -> None:
        for i, d in zip(index, delta, strict=True):
            self.delta[i] = self.store(d)

    def final(self, x: Tensor, y: Tensor, z0: Tensor, delta: Tensor) -> Tensor:
        z = self.net(x + delta)
        return ls(z, y, self.p) + self.weight * ((z - z0) ** 2).mean()


class MEP(EP):
    mu = 0.3
    low_precision = False

    def remember(self, x: Tensor, index: list[int], delta0: Tensor, delta: Tensor, g: Tensor) -> None:
        for k, i in enumerate(index):
            v = g[k] / g.abs().sum() + self.mu * self.v[i]
            self.v[i] = v.bfloat16().float() if self.low_precision else v
            self.delta[i] = self.store(project(delta0[k] + self.epsilon * v.sign(), x[k], self.epsilon))


class Gate:
    """The convergence gate; ``active`` are its epochs."""

    def __init__(self, gamma: float, ratio: float, w: float, active: Iterable[int]) -> None:
        self.gamma, self.ratio, self.w, self.active = gamma, ratio, w, set(active)
        self.means: list[float] = []
        self.seen: list[tuple[float, int]] = []
        self.opened: list[int] = []

    def __call__(self, benign: Tensor, n: int, epoch: int) -> Tensor:
        if epoch > len(self.means):
            self.means.append(sum(loss * k for loss, k in self.seen) / sum(k for _, k in self.seen))
            self.seen = []
        self.seen.append((benign.item(), n))
        if epoch not in self.active:
            return 0 * benign
        last, before = self.means[epoch - 1], self.means[epoch - 2] if epoch > 1 else 0.0
        threshold = min(max(self.gamma / self.ratio, last - before), self.gamma)
        if abs(benign.item() - last) <= threshold:
            self.opened.append(0)
            return 0 * benign
        self.opened.append(1 if benign.item() > last else -1)
        return self.w * self.opened[-1] * benign


class MEPCS(MEP):
    gate: Gate

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        benign = ls(self.net(x), y, self.p)
        self.weight = 0.0
        return super().loss(x, y, index, epoch, batch) + self.gate(benign, len(x), epoch)


class RSCS(Literal):
    gate: Gate

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        x0 = (x + torch.empty(x.shape).uniform_(-self.epsilon, self.epsilon)).clamp(0, 1)
        z0, g = self.start(x0, torch.zeros_like(x), lambda z: F.cross_entropy(z, y))
        x1 = (x0 + self.epsilon * g.sign()).clamp(0, 1)
        return ls(self.net(x1), y, 0.6) + self.gate(ls(z0, y, 0.6), len(x), epoch)


class PCO(EP):
    reset, beta, through = 10**9, 1.5, True

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        self.reset_if_due(x, epoch, batch)
        delta0 = torch.stack([self.delta[i] for i in index])
        z0, g = self.start(x, delta0, lambda z: ls(z, y, self.p))
        c = torch.stack([1 - torch.softmax(z0[i], 0)[y[i]] for i in range(len(y))]).reshape(-1, 1, 1, 1)
        c = c if self.through else c.detach()
        delta = project(delta0 + self.epsilon * g.sign(), x, self.epsilon)
        self.remember(x, index, delta0, delta, g)
        z_mix = self.net(c * (x + delta0) + (1 - c) * (x + self.beta * delta))
        z = self.net(x + delta)
        gap = ((z - z0) ** 2).mean() - ((z - z_mix) ** 2).mean()
        return ls(z_mix, y, self.p) + self.weight * abs(gap)


# -- shared perturbations --------------------------------------------------------------------------------------------


class UAP(Literal):
    """``u`` holds the perturbations, in [-radius, radius].

    As the code does it: the ascent's gradient lies in the start's ``grad``, to which the backward of the weight update
    adds before u moves. ``equation`` moves u by the ascent's gradient alone.
    """

    weight, s, mu, equation = 10.0, 0.4, 0.3, False

    def __init__(self, net: nn.Module, optimizer: Optimizer, epsilon: float, u: Tensor, radius: float) -> None:
        super().__init__(net, optimizer, epsilon)
        self.u, self.v, self.radius = list(u), [torch.zeros_like(one) for one in u], radius

    def step(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, batch: int) -> Tensor:
        self.net.train()
        noise = self.noise(x)
        groups = self.groups(x, y, noise)
        delta0 = project(torch.stack([self.u[k] for k in groups]) + noise, x, self.epsilon)
        start = (x + delta0).requires_grad_()
        z0 = self.net(start)
        smoothed_cross_entropy(z0, y, self.s).backward(retain_graph=True)
        assert start.grad is not None
        g = start.grad.clone() if self.equation else start.grad
        delta = project(delta0 + self.epsilon * g.sign(), x, self.epsilon)
        z = self.net(x + delta)
        loss = smoothed_cross_entropy(z, y, self.s) + self.weight * ((z - z0) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        scaled = g / g.abs().sum()
        for k in set(groups):
            members = [scaled[i] for i in range(len(x)) if groups[i] == k]
            self.v[k] = sum(members) / len(members) + self.mu * self.v[k]
            self.u[k] = (self.u[k] + self.radius * self.v[k].sign()).clamp(-self.radius, self.radius)
        return loss.detach()

    def noise(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def groups(self, x: Tensor, y: Tensor, noise: Tensor) -> list[int]:
        return [0] * len(x)


class CUAP(UAP):
    def groups(self, x: Tensor, y: Tensor, noise: Tensor) -> list[int]:
        return [int(label) for label in y]


class FUAP(UAP):
    route: nn.Linear
    classify: nn.Linear
    router_optimizer: Optimizer

    def noise(self, x: Tensor) -> Tensor:
        return clip_box(torch.empty(x.shape).uniform_(-self.epsilon, self.epsilon), x)

    def groups(self, x: Tensor, y: Tensor, noise: Tensor) -> list[int]:
        features = self.net.features(x + noise).detach()  # type: ignore[operator]
        hidden = self.route(features)
        chosen = [int(row.argmax()) for row in hidden]
        self.router_optimizer.zero_grad()
        smoothed_cross_entropy(self.classify(torch.relu(hidden)), y, self.s).backward()
        self.router_optimizer.step()
        return chosen


# -- others ----------------------------------------------------------------------------------------------------------


class LAW(Literal):
    """``reference`` is "clean" or "initial"."""

    def __init__(self, *args: object, reference: str, softmax_twice: bool, hole: int) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.reference, self.softmax_twice, self.hole = reference, softmax_twice, hole

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = self.net.features(x)  # type: ignore[operator]
        return self.net.linear(q), q  # type: ignore[operator]

    def cut(self, x: Tensor) -> Tensor:
        x, (height, width), half = x.clone(), x.shape[2:], self.hole // 2
        rows, columns = torch.randint(height, (len(x), 1)), torch.randint(width, (len(x), 1))
        for i in range(len(x)):
            r, c = int(rows[i]), int(columns[i])
            x[i, :, max(r - half, 0) : min(r + half, height), max(c - half, 0) : min(c + half, width)] = 0
        return x

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        if self.hole:
            x = self.cut(x)
        start = x + clip_box(self.epsilon / 2 * torch.sign(0.5 - torch.rand(x.shape)), x)
        start.requires_grad_()
        z0, q0 = self.both(start)
        scored = torch.softmax(z0, 1) if self.softmax_twice else z0
        (g,) = torch.autograd.grad(F.cross_entropy(scored, y), start, retain_graph=True)
        start = start.detach()
        x_adv = x + project(start - x + self.epsilon * g.sign(), x, self.epsilon)
        z, q = self.both(x_adv)
        origin = start
        if self.reference == "clean":
            (z0, q0), origin = self.both(x), x
        outputs = ((torch.softmax(z, 1) - torch.softmax(z0, 1)) ** 2).mean()
        features = ((torch.softmax(q, 1) - torch.softmax(q0, 1)) ** 2).mean()
        self.correct = int((z.argmax(1) == y).sum()), int((z0.argmax(1) == y).sum())
        return ls(z, y, 0.7) + 12 * (outputs + features) / (((x_adv - origin) ** 2).mean() + 0.125)


class FastBAT(Literal):
    def __init__(self, *args: object, a: float, penalty: float) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.a, self.penalty = a, penalty
        self.active = 0

    def step(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, batch: int) -> Tensor:
        net, eps, weights = self.net, self.epsilon, list(self.net.parameters())

        def total(net: nn.Module, point: Tensor) -> Tensor:
            return F.cross_entropy(net(point), y, reduction="sum")

        net.train()
        delta0 = clip_box(torch.empty(x.shape).uniform_(-eps, eps), x)
        point = (x + delta0).requires_grad_()
        delta1 = project(delta0 + self.a * torch.autograd.grad(total(net, point), point)[0], x, eps)
        point = (x + delta1).requires_grad_()
        (g1,) = torch.autograd.grad(total(net, point), point, create_graph=True)
        delta2 = project(delta1 + self.a * g1.detach(), x, eps)
        # On a copy, so that running statistics see this point once.
        point = (x + delta2).requires_grad_()
        (g2,) = torch.autograd.grad(total(copy.deepcopy(net), point), point)
        inside = (delta2 > torch.max(-x, torch.full_like(x, -eps)) + 1e-7) & (
            delta2 < torch.min(1 - x, torch.full_like(x, eps)) - 1e-7
        )
        self.active += int(inside.sum())
        q = torch.where(inside, g2, 0) / self.penalty
        inner = (g1 * q).sum()
        # The bias of the classifier does not enter g1's graph through every operation; zero where it does not.
        second = torch.autograd.grad(inner, weights, retain_graph=True, allow_unused=True)
        loss = total(net, x + delta2)
        first = torch.autograd.grad(loss, weights)
        for w, a, b in zip(weights, first, second, strict=True):
            w.grad = (a if b is None else a + b) / len(x)
        self.optimizer.step()
        return ((loss + inner) / len(x)).detach()


# -- FGSM-SDI recombined ---------------------------------------------------------------------------------------------


class SDI(Literal):
    """``told`` gives the gradient sign that the generator sees, ``extra`` a further term of the loss."""

    every, p = 2, 0.5
    straight_through = False
    box = True

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        epsilon: float,
        generator: nn.Module,
        extra: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        relative_alpha: float = 1.0,
    ) -> None:
        super().__init__(net, optimizer, epsilon)
        self.generator, self.extra, self.alpha = generator, extra, relative_alpha * epsilon
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, weight_decay=5e-4)
        self.memory: dict[int, Tensor] = {}
        self.geometry: Tensor | None = None

    def loss(self, x: Tensor, y: Tensor, index: list[int], epoch: int, batch: int) -> Tensor:
        h = torch.cat([x, self.told(x, y, index)], dim=1)
        if batch % self.every == 0:
            self.generator.train()
            eta = self.epsilon * self.generator(h)
            g = input_gradient(self.net, x + eta.detach(), y)
            delta = self.moved(x, eta, g)
            if self.straight_through:
                delta = delta.detach().requires_grad_()
                (slope,) = torch.autograd.grad(ls(self.net(x + delta), y, self.p), delta)
                self.generator_optimizer.zero_grad()
                eta.backward(-slope)
            else:
                self.generator_optimizer.zero_grad()
                (-ls(self.net(x + delta), y, self.p)).backward()
            self.generator_optimizer.step()
            self.optimizer.zero_grad()
        self.generator.eval()
        eta = self.epsilon * self.generator(h).detach()
        z0, g = self.start(x, eta, lambda z: F.cross_entropy(z, y))
        self.learned(index, g.sign())
        z = self.net(x + self.moved(x, eta, g))
        return ls(z, y, self.p) + (self.extra(z, z0, epoch) if self.extra else 0)

    def moved(self, x: Tensor, eta: Tensor, g: Tensor) -> Tensor:
        delta = clip_ball(eta + self.alpha * g.sign(), self.epsilon)
        return clip_box(delta, x) if self.box else delta

    def told(self, x: Tensor, y: Tensor, index: list[int]) -> Tensor:
        return input_gradient(self.net, x, y).sign()

    def learned(self, index: list[int], sign: Tensor) -> None:
        pass


class SDIMemory(SDI):
    """``geometry`` (B, 3) of the batch, top, left and flipped; the crop of an image padded by ``pad``."""

    pad = 2

    def told(self, x: Tensor, y: Tensor, index: list[int]) -> Tensor:
        return torch.stack(
            [self.view(self.memory[i], k) if i in self.memory else 0 * x[k] for k, i in enumerate(index)]
        )

    def learned(self, index: list[int], sign: Tensor) -> None:
        for k, i in enumerate(index):
            self.memory[i] = self.undo(sign[k], k)

    def view(self, image: Tensor, k: int) -> Tensor:
        """As an image is augmented: zero border, crop, flip."""
        if self.geometry is None:
            return image
        top, left, flipped = self.geometry[k].tolist()
        padded = F.pad(image, (self.pad,) * 4)
        crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        return crop.flip(2) if flipped else crop

    def undo(self, crop: Tensor, k: int) -> Tensor:
        if self.geometry is None:
            return crop
        top, left, flipped = self.geometry[k].tolist()
        height, width = crop.shape[1:]
        padded = torch.zeros(crop.shape[0], height + 2 * self.pad, width + 2 * self.pad)
        padded[:, top : top + height, left : left + width] = crop.flip(2) if flipped else crop
        return padded[:, self.pad : self.pad + height, self.pad : self.pad + width]
