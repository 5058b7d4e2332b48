"""Single-step training from remembered perturbations, with a step per sample that its gradient norm shortens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import CrossEntropy
from headstart.parts.memory import SampleMemory


class PaddedMemory(SampleMemory):
    """One row per sample in the frame of its padded image, where every crop lies; one visit moves its crop alone."""

    def __init__(self, info: TaskInfo, *, unit: float | None) -> None:
        channels, self.rows_seen, self.columns_seen = info.image_shape
        padded = (channels, self.rows_seen + 2 * info.pad, self.columns_seen + 2 * info.pad)
        super().__init__(replace(info, image_shape=padded), unit=unit, aligned=True)

    def read(self, step: Step) -> Tensor:
        stored = self._table()[self._crop(step)].permute(0, 3, 1, 2).float()
        return stored * self.unit if self.unit else stored

    def write(self, step: Step, values: Tensor) -> None:
        values = values.detach().permute(0, 2, 3, 1)
        if self.unit:
            values = (values / self.unit).round().clamp(-127, 127)
        self._table()[self._crop(step)] = values.to(self.rows.dtype)

    def draw_uniform(self, radius: float) -> None:
        """Fill all rows with U(radius)."""
        if self.unit:
            steps = round(radius / self.unit)
            self.rows.random_(-steps, steps + 1)
        else:
            self.rows.uniform_(-radius, radius)

    def _table(self) -> Tensor:
        return self.rows.view(len(self.rows), self.height, self.width, -1)

    def _crop(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Where the pixels of the batch lie in the table: sample (B, 1, 1), row (B, H, 1), column (B, 1, W)."""
        sample = self.locate(step)
        if step.geometry is None:
            top, left, flipped = sample.new_full((3, len(sample)), self.pad).unbind()
            flipped = flipped.zero_()
        else:
            top, left, flipped = step.geometry.unbind(1)
        down = torch.arange(self.rows_seen, device=sample.device)
        right = torch.arange(self.columns_seen, device=sample.device)
        right = torch.where(flipped[:, None] == 1, right.flip(0), right)
        return sample[:, None, None], (top[:, None] + down)[:, :, None], (left[:, None] + right)[:, None, :]


class Followed(Init):
    """delta0 = box(the training perturbation of the last visit), moved with crop and flip.

    Uniform noise U(epsilon) at the start, and before every R-th epoch but the last.
    """

    def __init__(self, memory: PaddedMemory, reset_every: int) -> None:
        super().__init__()
        if reset_every < 1:
            raise SettingError(f"reset_every is {reset_every}; it must be at least 1 epoch")
        self.memory, self.reset_every = memory, reset_every

    def forward(self, target: Target, step: Step) -> Tensor:
        nth, last = step.clock.epoch + 1, step.clock.epochs
        if step.clock.batch == 0 and (nth == 1 or (nth % self.reset_every == 0 and nth != last)):
            self.memory.draw_uniform(step.threat.epsilon)
        return step.threat.box(step.x, self.memory.read(step))

    def observe(self, step: Step) -> None:
        assert step.delta is not None
        self.memory.write(step, step.delta)


class NormScaledStep(SignSteps):
    """A sign step of size alpha_i = epsilon * clip(scale / (1 + sqrt(v_i) / c), low, high); epsilon in the warm-up.

    v_i <- beta * v_i + (1 - beta) * ||g_i||_2^2 at every visit of sample i after the warm-up, 0 before; g is the
    gradient of the mean over the batch of all processes, so that c belongs to a batch size.
    """

    def __init__(
        self, info: TaskInfo, *, scale: float, c: float, beta: float, bounds: tuple[float, float], warmup_epochs: int
    ) -> None:
        super().__init__(batch_norm="eval")
        self.norms = SampleMemory(replace(info, image_shape=(1, 1, 1)))
        self.scale, self.c, self.beta, self.bounds, self.warmup_epochs = scale, c, beta, bounds, warmup_epochs

    def direction(self, step: Step, grad: Tensor) -> Tensor:
        sign = super().direction(step, grad)
        if step.clock.epoch < self.warmup_epochs:
            return sign
        size = self.scale / (1 + self.moved(step, grad).sqrt() / self.c)
        return size.clamp(*self.bounds) * sign

    def moved(self, step: Step, grad: Tensor) -> Tensor:
        """v after this visit, (B, 1, 1, 1)."""
        square = (grad / distributed.world_size()).square().sum((1, 2, 3), keepdim=True)
        return self.beta * self.norms.read(step) + (1 - self.beta) * square

    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        if step.clock.epoch >= self.warmup_epochs:
            self.norms.write(step, self.moved(step, step.grad0))


@register("atas", source="Huang et al., IEEE TIP 2023", passes="2F 1Bx 1B + two per-sample memories")
def build(
    info: TaskInfo,
    scale: float = 2.0,
    c: float = 0.01,
    beta: float = 0.5,
    smallest_alpha: float = 0.5,
    largest_alpha: float = 1.75,
    warmup_epochs: int = 5,
    reset_every: int = 10,
    label_smoothing: float = 0.0,
    compact: bool = True,
) -> Method:
    """ATAS: a sign step from the sample's last perturbation, the shorter the larger its gradients have been.

    delta0_i as in Followed; delta = P(delta0 + alpha_i * sign grad CE(f(x + delta0), y)), alpha_i as in NormScaledStep,
    the ascent in evaluation mode; loss CE(f(x + delta), y), which alone is smoothed. Step sizes follow epsilon here;
    the authors' scripts keep those of 8/255 (16, 4 and 14/255) at every epsilon, and on ImageNet take c = 0.1, bounds
    of 4 and 8/255 and tables of 32 x 32 pixels that they enlarge.

    Args:
        scale: gamma / c of the paper, over epsilon: the step at a vanishing gradient.
        c: norm of a sample's gradient, in the mean of a batch of 128, that halves the step.
        beta: share of v that stays at a visit.
        smallest_alpha, largest_alpha: bounds of the step size over epsilon.
        warmup_epochs: epochs with steps of epsilon.
        reset_every: R.
        compact: keep perturbations as int8 (within epsilon / 254) instead of fp32.
    """
    if not 0 <= smallest_alpha <= largest_alpha:
        raise SettingError(
            f"smallest_alpha is {smallest_alpha}; it must be between 0 and largest_alpha, {largest_alpha}"
        )
    bounds = smallest_alpha, largest_alpha
    ascent = NormScaledStep(info, scale=scale, c=c, beta=beta, bounds=bounds, warmup_epochs=warmup_epochs)
    memory = PaddedMemory(info, unit=info.threat.epsilon / 127 if compact else None)
    return Method(Followed(memory, reset_every), ascent, CrossEntropy(label_smoothing))
