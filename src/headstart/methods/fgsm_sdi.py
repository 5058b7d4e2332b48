"""FGSM with a learned, sample-dependent initialisation: the method of the TIP paper."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from headstart import comm
from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Target
from headstart.errors import UserError
from headstart.models.generator import Generator
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import CrossEntropy, cross_entropy, smoothing_of
from headstart.registry import register

Conditioning = Literal["image+gradient", "gradient", "image"]
GeneratorSchedule = Literal["constant", "multi-step", "cosine"]
GENERATOR_UPDATES = 200  # fewest in a run: with some tens of updates the generator starves and the method collapses


class GeneratorInit(Init):
    """delta0 = epsilon * tanh(G(h)), h = (x, sign of the clean loss gradient).

    Every ``every``-th batch of an epoch, G first takes an ascent step of its own on the same robust loss. Its
    gradient flows through delta = P(delta0 + alpha * sign g) alone, g a constant; where P clips, it stops. With
    alpha = epsilon G therefore learns only at pixels where it opposes the sign step.
    """

    def __init__(
        self,
        generator: Generator,
        ascent: SignSteps,
        *,
        every: int,
        conditioning: Conditioning,
        label_smoothing: float,
        lr: float,
        schedule: GeneratorSchedule,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.every, self.conditioning, self.label_smoothing = every, conditioning, label_smoothing
        self.lr, self.schedule = lr, schedule
        # In a tuple, since the ascent is the method's part already, not ours.
        self._ascent = (ascent,)
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=lr, weight_decay=5e-4)

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
        grad, _ = target.ascend(step.x, lambda z: cross_entropy(z, step.y))
        return grad.sign() if self.conditioning == "gradient" else torch.cat([step.x, grad.sign()], dim=1)

    def propose(self, target: Target, step: Step, h: Tensor) -> Tensor:
        with target.autocast():
            proposal: Tensor = self.generator(h)
        return step.threat.epsilon * proposal

    def update_generator(self, target: Target, step: Step, h: Tensor) -> None:
        step.delta0 = self.propose(target, step, h)
        delta = self._ascent[0](target, step)
        robust_loss = cross_entropy(target.through(step.x + delta), step.y, self.label_smoothing)
        self.optimizer.zero_grad()
        (-robust_loss).backward()  # type: ignore[no-untyped-call]
        comm.mean_(p.grad for p in self.generator.parameters() if p.grad is not None)
        comm.mean_(self.generator.buffers())
        self.optimizer.param_groups[0]["lr"] = self.lr * decay(self.schedule, step.clock)
        self.optimizer.step()

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


@register("fgsm-sdi", source="Jia et al., IEEE TIP 2022", passes="(3+2/k)F (2+2/k)Bx 1B + generator")
def build(
    info: TaskInfo,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    box: bool = True,
    conditioning: Conditioning = "image+gradient",
    generator_width: int = 64,
    generator_every: int | None = None,
    generator_lr: float = 1e-3,
    generator_schedule: GeneratorSchedule = "constant",
) -> Method:
    """FGSM-SDI: one sign step of epsilon from a start proposed by a jointly trained generator.

    delta0 = epsilon * tanh(G(x, sign grad CE(f(x), y))); delta = P(delta0 + alpha * sign grad CE(f(x + delta0), y));
    f descends CE_s(f(x + delta), y), G ascends it every k batches. The published code is the setting
    ``box=False, generator_every=20``.

    Args:
        label_smoothing: None is the published true-class weight of 0.5.
        box: clip the training perturbation to the image box. The published code never does, and so trains on
            points outside the threat model.
        conditioning: what the generator sees. "image" saves the clean-gradient pass and collapses: an ablation.
        generator_width: 64 in the paper; a small target network is outweighed by that, take 16.
        generator_every: k; None takes the published 20, or less in runs so short that the generator would get
            fewer than 200 updates.
        generator_schedule: "constant" is what the published code does, "multi-step" what its milestones mean.
    """
    for name, value, allowed in [
        ("conditioning", conditioning, get_args(Conditioning)),
        ("generator_schedule", generator_schedule, get_args(GeneratorSchedule)),
    ]:
        if value not in allowed:
            raise UserError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if generator_every is not None and generator_every < 1:
        raise UserError(f"generator_every is {generator_every}; it must be at least 1 (the paper's is 20)")
    smoothing = smoothing_of(0.5, info.classes) if label_smoothing is None else label_smoothing
    channels = info.image_shape[0]
    ascent = SignSteps(relative_alpha, box=box)
    init = GeneratorInit(
        Generator(2 * channels if conditioning == "image+gradient" else channels, channels, generator_width),
        ascent,
        every=generator_every or min(20, max(1, info.updates // GENERATOR_UPDATES)),
        conditioning=conditioning,
        label_smoothing=smoothing,
        lr=generator_lr,
        schedule=generator_schedule,
    )
    return Method(init, ascent, CrossEntropy(smoothing))
