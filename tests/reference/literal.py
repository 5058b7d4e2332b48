"""The published updates, slow and literal: what the library's methods must agree with.

Plain networks and autograd; nothing of ``headstart`` is imported. Every function makes one whole weight update and
returns the loss. They also do the needless work of the published code, so that timings against them mean something.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer


def label_distribution(y: Tensor, classes: int, true_weight: float, like: Tensor) -> Tensor:
    """LS_p: weight p on the true class, (1 - p) / (K - 1) on each other; (B, K)."""
    rest = (1 - true_weight) / (classes - 1)
    return F.one_hot(y, classes).to(like) * (true_weight - rest) + rest


def cross_entropy_with(logits: Tensor, distribution: Tensor) -> Tensor:
    """Mean over the batch of -sum_k q_k log p_k."""
    return -(distribution * F.log_softmax(logits, dim=1)).sum(1).mean()


def smoothed_cross_entropy(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """CE_s: target (1 - s) * onehot + s / K."""
    classes = logits.shape[1]
    onehot = F.one_hot(y, classes).to(logits)
    return cross_entropy_with(logits, (1 - smoothing) * onehot + smoothing / classes)


def clip(value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Elementwise minimum and maximum with tensors of bounds."""
    return torch.max(torch.min(value, upper), lower)


def clip_ball(delta: Tensor, epsilon: float) -> Tensor:
    return clip(delta, torch.full_like(delta, -epsilon), torch.full_like(delta, epsilon))


def clip_box(delta: Tensor, x: Tensor) -> Tensor:
    return clip(delta, 0 - x, 1 - x)


def input_gradient(net: nn.Module, point: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Gradient of the cross-entropy at ``point``, a constant."""
    point = point.clone().detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(smoothed_cross_entropy(net(point), y, smoothing), [point])
    return grad.detach()


def descend(net: nn.Module, optimizer: Optimizer, point: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """One weight update on the loss at ``point``."""
    optimizer.zero_grad()
    loss = smoothed_cross_entropy(net(point.detach()), y, smoothing)
    loss.backward()
    optimizer.step()
    return loss.detach()


def standard(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, smoothing: float = 0.0
) -> Tensor:
    """Plain training."""
    net.train()
    return descend(net, optimizer, x, y, smoothing)


def fgsm_at(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, epsilon: float, smoothing: float = 0.0
) -> Tensor:
    """FGSM-AT from zero; attack and loss are smoothed alike."""
    net.train()
    delta = clip_box(epsilon * torch.sign(input_gradient(net, x, y, smoothing)), x)
    return descend(net, optimizer, x + delta, y, smoothing)


def fgsm_rs(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    relative_alpha: float = 1.25,
    smoothing: float = 0.0,
) -> Tensor:
    """FGSM-RS: alpha = 1.25 epsilon from a uniform start, clipped to the ball, then to the box."""
    net.train()
    start = clip_box(torch.zeros_like(x).uniform_(-epsilon, epsilon), x)
    sign = torch.sign(input_gradient(net, x + start, y, smoothing))
    delta = clip_box(clip_ball(start + relative_alpha * epsilon * sign, epsilon), x)
    return descend(net, optimizer, x + delta, y, smoothing)


def n_fgsm(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    noise_scale: float = 2.0,
    smoothing: float = 0.0,
) -> Tensor:
    """N-FGSM: alpha = epsilon from noise of twice the radius, clipped to the box alone."""
    net.train()
    start = clip_box(torch.zeros_like(x).uniform_(-noise_scale * epsilon, noise_scale * epsilon), x)
    sign = torch.sign(input_gradient(net, x + start, y, smoothing))
    return descend(net, optimizer, x + clip_box(start + epsilon * sign, x), y, smoothing)


def pgd_at(
    net: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    steps: int = 10,
    relative_alpha: float = 0.25,
    smoothing: float = 0.0,
    attack_in_eval: bool = False,
) -> Tensor:
    """PGD-AT: T steps from a uniform start; the attack's cross-entropy is plain, only the loss is smoothed."""
    net.train(not attack_in_eval)
    delta = clip_box(torch.zeros_like(x).uniform_(-epsilon, epsilon), x)
    for _ in range(steps):
        sign = torch.sign(input_gradient(net, x + delta, y))
        delta = clip_box(clip_ball(delta + relative_alpha * epsilon * sign, epsilon), x)
    net.train()
    return descend(net, optimizer, x + delta, y, smoothing)


class LiteralGenerator(nn.Module):
    """The generator of FGSM-SDI, layer by layer; (B, 2C, H, W) to tanh outputs (B, C, H, W)."""

    def __init__(self, in_channels: int = 6, out_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn_in = nn.BatchNorm2d(width, eps=1e-3, momentum=0.1)
        self.relu = nn.ReLU(inplace=True)
        self.block_bn1 = nn.BatchNorm2d(width, affine=False)
        self.block_act1 = nn.PReLU(num_parameters=1, init=0.25)
        self.block_conv1 = nn.Conv2d(width, width, kernel_size=3, stride=1, padding=1)
        self.block_bn2 = nn.BatchNorm2d(width, affine=False)
        self.block_act2 = nn.PReLU(num_parameters=1, init=0.25)
        self.block_conv2 = nn.Conv2d(width, width, kernel_size=3, stride=1, padding=1)
        self.bn_out = nn.BatchNorm2d(width, affine=False)
        self.conv_out = nn.Conv2d(width, out_channels, kernel_size=3, stride=1, padding=1)
        nn.init.xavier_uniform_(self.block_conv1.weight, gain=2**0.5)
        nn.init.xavier_uniform_(self.block_conv2.weight, gain=2**0.5)

    def forward(self, h: Tensor) -> Tensor:
        out = self.relu(self.bn_in(self.conv_in(h)))
        inner = self.block_conv1(self.block_act1(self.block_bn1(out)))
        inner = self.block_conv2(self.block_act2(self.block_bn2(inner)))
        return torch.tanh(self.conv_out(self.bn_out(out + inner)))


def copy_generator(source: nn.Module, literal: LiteralGenerator) -> LiteralGenerator:
    """Copy weights and buffers of the library's generator, whose layers come in the same order; ``literal``."""
    theirs, ours = list(source.state_dict().values()), literal.state_dict()
    if [t.shape for t in theirs] != [t.shape for t in ours.values()]:
        raise ValueError("the generators differ in their layers")
    literal.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return literal


class LiteralSDI:
    """The published FGSM-SDI loop, one batch a call, with its redundant graphs and backward passes.

    Not detached as in the public code: the input, which requires a gradient in every pass, and the proposal eta,
    through which the target's loss is differentiated into the generator and dropped. The generator's loss is also
    differentiated into the target's weights and dropped. The image box is never enforced.

    Args:
        net: the target network, images (B, C, H, W) in [0, 1] to logits (B, K).
        generator: proposes eta / epsilon.
        every: k, the generator's period in batches of an epoch.
        true_weight: label smoothing, p of LS_p.
        sees: what the generator is shown; "image+gradient" is the published input.
    """

    def __init__(
        self,
        net: nn.Module,
        generator: nn.Module,
        *,
        sees: str = "image+gradient",
        epsilon: float = 8 / 255,
        relative_alpha: float = 1.0,
        every: int = 20,
        classes: int = 10,
        true_weight: float = 0.5,
        lr: float = 0.1,
        generator_lr: float = 1e-3,
    ) -> None:
        self.net, self.generator, self.sees = net, generator, sees
        self.epsilon, self.alpha = epsilon, relative_alpha * epsilon
        self.every, self.classes, self.true_weight = every, classes, true_weight
        self.optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), generator_lr, weight_decay=5e-4)

    def step(self, x: Tensor, y: Tensor, batch_index: int) -> Tensor:
        """Both players' updates on one batch, ``batch_index`` counted inside the epoch; the target's loss."""
        x = x.clone().detach().requires_grad_(True)
        labels = label_distribution(y, self.classes, self.true_weight, x)
        self.net.train()
        h = self._input(x, y)
        if batch_index % self.every == 0:
            self.generator.train()
            self._zero_grad()
            (-self._robust_loss(x, y, h, labels)).backward()
            self.generator_optimizer.step()
        self.generator.eval()
        self._zero_grad()
        loss = self._robust_loss(x, y, h, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _input(self, x: Tensor, y: Tensor) -> Tensor:
        if self.sees == "image":
            return x.detach()
        if self.sees == "noise":
            return torch.randn(x.shape)
        (natural,) = torch.autograd.grad(F.cross_entropy(self.net(x), y), [x])
        sign = torch.sign(natural)
        return (sign if self.sees == "gradient" else torch.cat([x, sign], dim=1)).detach()

    def _robust_loss(self, x: Tensor, y: Tensor, h: Tensor, labels: Tensor) -> Tensor:
        eta = self.epsilon * self.generator(h)
        point = x + eta
        (grad,) = torch.autograd.grad(F.cross_entropy(self.net(point), y), [point])
        move = clip_ball(self.alpha * torch.sign(grad), self.epsilon)
        delta = clip_ball(eta + move, self.epsilon)
        return cross_entropy_with(self.net(x + delta), labels)

    def _zero_grad(self) -> None:
        self.optimizer.zero_grad()
        self.generator_optimizer.zero_grad()
