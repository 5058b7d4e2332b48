"""FGSM with a learned, sample-dependent initialisation: the method of the TIP paper."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import GraphKey, Init, Method, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Target
from headstart.errors import UserError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.generator import Generator
from headstart.parts.losses import CrossEntropy, cross_entropy, smoothing_of
from headstart.parts.memory import SampleMemory

Conditioning = Literal["image+gradient", "image+memory", "gradient", "image"]
GeneratorSchedule = Literal["constant", "multi-step", "cosine"]
GENERATOR_UPDATES = 200  # fewest in a run: with some tens of updates the generator starves and the method collapses


class GeneratorInit(Init):
    """delta0 = epsilon * tanh(G(h)), h = (x, sign of the clean loss gradient).

    With the conditioning "image+memory" the sign is that of the attack gradient at the sample's last visit, zero
    before the second. It is kept as int8, one byte per pixel and channel, in the frame of the image: crop and flip
    are undone when it is stored and redone when it is read, with zeros where the last crop saw nothing.

    Every ``every``-th batch of an epoch, G first takes an ascent step of its own on the same robust loss. Its
    gradient flows through delta = P(delta0 + alpha * sign g) alone, g a constant; where P clips, it stops. With
    alpha = epsilon G therefore learns only at pixels where it opposes the sign step, unless ``straight_through``
    lets the gradient pass where P clips.
    """

    def __init__(
        self,
        info: TaskInfo,
        ascent: SignSteps,
        *,
        label_smoothing: float,
        conditioning: Conditioning = "image+gradient",
        width: int = 64,
        every: int | None = None,
        lr: float = 1e-3,
        schedule: GeneratorSchedule = "constant",
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        for name, value, allowed in [
            ("conditioning", conditioning, get_args(Conditioning)),
            ("generator_schedule", schedule, get_args(GeneratorSchedule)),
        ]:
            if value not in allowed:
                raise UserError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        if every is not None and every < 1:
            raise UserError(f"generator_every is {every}; it must be at least 1 (the paper's is 20)")
        channels = info.image_shape[0]
        self.generator = Generator(2 * channels if "+" in conditioning else channels, channels, width)
        self.memory = SampleMemory(info, unit=1.0, aligned=True) if conditioning == "image+memory" else None
        self.every = every or min(20, max(1, info.updates // GENERATOR_UPDATES))
        self.conditioning, self.label_smoothing = conditioning, label_smoothing
        self.lr, self.schedule, self.straight_through = lr, schedule, straight_through
        # In a tuple, since the ascent is the method's part already, not ours.
        self._ascent = (ascent,)
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
        sign = self.gradient_sign(target, step)
        return sign if self.conditioning == "gradient" else torch.cat([step.x, sign], dim=1)

    def gradient_sign(self, target: Target, step: Step) -> Tensor:
        """Sign of the loss gradient that G is told, (B, C, H, W)."""
        if self.memory is not None:
            return self.memory.read(step)
        grad, _ = target.ascend(step.x, lambda z: cross_entropy(z, step.y))
        return grad.sign()

    def propose(self, target: Target, step: Step, h: Tensor) -> Tensor:
        with target.autocast():
            proposal: Tensor = self.generator(h)
        return step.threat.epsilon * proposal

    def update_generator(self, target: Target, step: Step, h: Tensor) -> None:
        step.delta0 = self.propose(target, step, h)
        ascent = self._ascent[0]
        kept, ascent.keep = ascent.keep, False  # a loss that reuses logits0 wants those of the target's update
        delta = ascent(target, step)
        ascent.keep = kept
        if self.straight_through:
            delta = delta.detach() + (step.delta0 - step.delta0.detach())
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


@register("fgsm-sdi", source="Jia et al., IEEE TIP 2022", passes="(3+2/k)F (2+2/k)Bx 1B + generator")
def build(
    info: TaskInfo,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    box: bool = False,
    conditioning: Conditioning = "image+gradient",
    generator_width: int = 64,
    generator_every: int | None = None,
    generator_lr: float = 1e-3,
    generator_schedule: GeneratorSchedule = "constant",
    straight_through: bool = False,
) -> Method:
    """FGSM-SDI: one sign step of epsilon from a start proposed by a jointly trained generator.

    delta0 = epsilon * tanh(G(x, sign grad CE(f(x), y))); delta = P(delta0 + alpha * sign grad CE(f(x + delta0), y));
    f descends CE_s(f(x + delta), y), G ascends it every k batches. The published code is the setting
    ``box=False, generator_every=20``.

    Args:
        relative_alpha: step size over epsilon. Below 1 the generator learns at more pixels, see GeneratorInit.
        label_smoothing: None is the published true-class weight of 0.5.
        box: clip the training perturbation to the image box. The published code never does, and so trains on
            points outside the threat model.
        conditioning: what the generator sees. "image+memory" saves the clean-gradient pass (the method
            sdi-memory); so does "image", which collapses: an ablation.
        generator_width: 64 in the paper; a small target network is outweighed by that, take 16.
        generator_every: k; None takes the published 20, or less in runs so short that the generator would get
            fewer than 200 updates.
        generator_schedule: "constant" is what the published code does, "multi-step" what its milestones mean.
        straight_through: let the generator's gradient pass where the projection clips; our addition.
    """
    smoothing = smoothing_of(0.5, info.classes) if label_smoothing is None else label_smoothing
    ascent = SignSteps(relative_alpha, box=box)
    init = GeneratorInit(
        info,
        ascent,
        label_smoothing=smoothing,
        conditioning=conditioning,
        width=generator_width,
        every=generator_every,
        lr=generator_lr,
        schedule=generator_schedule,
        straight_through=straight_through,
    )
    return Method(init, ascent, CrossEntropy(smoothing))
