"""The learned start of FGSM-SDI: a generator proposes it from the image and the sign of its loss gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.method import Ascent, GraphKey, Init, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import BatchNormMode, Target
from headstart.errors import SettingError
from headstart.parts.losses import cross_entropy
from headstart.parts.memory import SampleMemory

Conditioning = Literal["image+gradient", "image+memory", "gradient", "image", "noise"]
GeneratorSchedule = Literal["constant", "multi-step", "cosine"]
GENERATOR_UPDATES = 200  # fewest in a run: with some tens of updates the generator starves and the method collapses


class ResidualBlock(nn.Module):
    """x + conv(prelu(bn(conv(prelu(bn(x)))))), width unchanged, batch-norm without affine parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(width, width, 3, padding=1)
            nn.init.xavier_uniform_(conv.weight, gain=2**0.5)
            layers += [nn.BatchNorm2d(width, affine=False), nn.PReLU(), conv]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))


class Generator(nn.Module):
    """Fully convolutional network of Jia et al., TIP 2022; the published one has width 64.

    Args:
        in_channels: channels of the conditioning input, (B, in_channels, H, W).
        out_channels: channels of the image.
        width: channels inside; 64 in the paper. At full resolution it can cost more than a small target network.

    ``forward`` returns tanh outputs (B, out_channels, H, W) in (-1, 1), to be multiplied by epsilon.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise SettingError(f"generator width is {width}; it must be at least 1 (the paper's is 64)")
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.ReLU(inplace=True),
            ResidualBlock(width),
            nn.BatchNorm2d(width, affine=False),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        proposal = cast(Tensor, self.layers(h))
        return torch.tanh(proposal.to(torch.promote_types(proposal.dtype, torch.float32)))


class GeneratorInit(Init):
    """delta0 = epsilon * tanh(G(h)), h = (x, sign of the clean loss gradient).

    With the conditioning "image+memory" the sign is that of the attack gradient at the sample's last visit, zero
    before the second. It is kept as int8, one byte per pixel and channel, in the frame of the image: crop and flip
    are undone when it is stored and redone when it is read, with zeros where the last crop saw nothing. With "noise"
    h is standard normal numbers of the image's shape, fresh in every update: G sees nothing of the sample.

    Every ``every``-th batch of an epoch, G first takes an ascent step of its own on the same robust loss. Its
    gradient flows through delta = P(delta0 + alpha * sign g) alone, g a constant; where P clips, it stops. With
    alpha = epsilon G therefore learns only at pixels where it opposes the sign step, unless ``straight_through``
    lets the gradient pass where P clips.

    Args:
        ascent: the method's, with which G's own update is made too.
        every: k; None is 20, or less in runs so short that G would get fewer than 200 updates.
        schedule: of G's learning rate, see ``decay``.
        batch_norm: mode of the target in the pass at the clean image; None follows the target's setting.
    """

    def __init__(
        self,
        info: TaskInfo,
        ascent: Ascent,
        *,
        label_smoothing: float,
        conditioning: Conditioning = "image+gradient",
        width: int = 64,
        every: int | None = None,
        lr: float = 1e-3,
        schedule: GeneratorSchedule = "constant",
        straight_through: bool = False,
        batch_norm: BatchNormMode | None = None,
    ) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise SettingError(f"generator_every is {every}; it must be at least 1 (the paper's is 20)")
        channels = info.image_shape[0]
        self.generator = Generator(2 * channels if "+" in conditioning else channels, channels, width)
        self.memory = SampleMemory(info, unit=1.0, aligned=True) if conditioning == "image+memory" else None
        self.every = every or min(20, max(1, info.updates // GENERATOR_UPDATES))
        self.conditioning, self.label_smoothing = conditioning, label_smoothing
        self.lr, self.schedule = lr, schedule
        self.straight_through, self.batch_norm = straight_through, batch_norm
        self.ascent = ascent
        weights = self.generator.parameters()
        # Fused keeps its step count on the device, so that updates can be recorded as CUDA graphs.
        self.optimizer = torch.optim.Adam(weights, lr=lr, weight_decay=5e-4, fused=True, capturable=True)

    def forward(self, target: Target, step: Step) -> Tensor:
        h = self.condition(target, step)
        if step.clock.batch % self.every == 0:
            self.generator.train()
            self.update_generator(target, step, h)
        # Evaluation mode for the target's update is the published choice: running statistics that only
        # generator updates refresh.
        self.generator.eval()
        with torch.no_grad():
            return self.propose(target, step, h)

    def condition(self, target: Target, step: Step) -> Tensor:
        """What G sees, (B, 2C or C, H, W)."""
        if self.conditioning == "image":
            return step.x
        if self.conditioning == "noise":
            return torch.randn_like(step.x)
        sign = self.gradient_sign(target, step)
        return sign if self.conditioning == "gradient" else torch.cat([step.x, sign], dim=1)

    def gradient_sign(self, target: Target, step: Step) -> Tensor:
        """Sign of the loss gradient that G is told, (B, C, H, W)."""
        if self.memory is not None:
            return self.memory.read(step)
        grad, _ = target.ascend(step.x, lambda z: cross_entropy(z, step.y), batch_norm=self.batch_norm)
        return grad.sign()

    def propose(self, target: Target, step: Step, h: Tensor) -> Tensor:
        with target.autocast():
            proposal: Tensor = self.generator(h)
        return step.threat.epsilon * proposal

    def update_generator(self, target: Target, step: Step, h: Tensor) -> None:
        delta0 = self.propose(target, step, h)
        # A step of its own: a loss that reuses logits0 wants those of the target's update.
        delta = self.ascent(target, replace(step, delta0=delta0, needs=frozenset()))
        if self.straight_through:
            delta = delta.detach() + (delta0 - delta0.detach())
        robust_loss = cross_entropy(target.through(step.x + delta), step.y, self.label_smoothing)
        self.optimizer.zero_grad()
        (-robust_loss).backward()  # type: ignore[no-untyped-call]
        distributed.mean_(p.grad for p in self.generator.parameters() if p.grad is not None)
        distributed.mean_(self.generator.buffers())
        self.optimizer.param_groups[0]["lr"] = self.lr * decay(self.schedule, step.clock)
        self.optimizer.step()

    def observe(self, step: Step) -> None:
        if self.memory is not None:
            assert step.grad0 is not None
            self.memory.write(step, step.grad0.sign())

    def graph_key(self, step: Step) -> GraphKey:
        if self.schedule != "constant":
            return None
        return (step.clock.batch % self.every == 0,)

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def decay(schedule: GeneratorSchedule, clock: Clock) -> float:
    """Factor on the generator's learning rate at this update."""
    if schedule == "multi-step":  # the published milestones, epochs 100 and 105 of 110
        return 0.1 ** ((clock.fraction >= 100 / 110) + (clock.fraction >= 105 / 110))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * clock.fraction)) / 2
    return 1.0
