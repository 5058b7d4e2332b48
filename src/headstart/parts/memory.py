"""Perturbations remembered from one visit of a sample, or of a batch, to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.method import GraphKey, Init, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Target
from headstart.errors import DataError, OutOfMemory, SettingError


class SampleMemory(nn.Module):
    """One image-shaped row per training sample of this process, zero until written.

    A process keeps the rows of its fixed share of the samples, row index // world_size (see ResidentLoader). They
    are saved as one table over all processes, so that a run may resume on another number of them.

    Args:
        info: the task.
        unit: what the integer 1 stands for; rows are then int8 in [-127, 127], a quarter of fp32. None keeps
            ``dtype``. With epsilon / 127 a perturbation is kept to within epsilon / 254.
        dtype: of the rows without a unit. Gradient momenta need bfloat16 rather than float16: only their sign is
            used, but their size varies between samples by more than float16 can hold.
        aligned: keep rows in the frame of the image before its crop and flip, undone when written and redone when
            read, zero where nothing was seen. Otherwise in the frame of the augmented image, whatever it was.

    Raises:
        SettingError: aligned, where crops are rescaled.
        OutOfMemory: the table does not fit.
    """

    def __init__(
        self,
        info: TaskInfo,
        *,
        unit: float | None = None,
        dtype: torch.dtype = torch.float32,
        aligned: bool = False,
        samples: int | None = None,
    ) -> None:
        super().__init__()
        if aligned and info.rescaled:
            raise SettingError(
                "this method remembers perturbations by their place in the image, which crops of random scale "
                "(image_size) lose; choose one without aligned memory, or images of one size without image_size"
            )
        channels, self.height, self.width = info.image_shape
        self.unit, self.aligned, self.pad = unit, aligned, info.pad
        shape = (samples or info.samples, self.height * self.width * channels)
        dtype = torch.int8 if unit else dtype
        try:
            rows = torch.zeros(shape, dtype=dtype)
        except RuntimeError as error:  # how torch says that there is not so much memory
            size = shape[0] * shape[1] * dtype.itemsize / 2**30
            raise OutOfMemory(
                f"this method remembers {shape[0]} samples in {size:.0f} GB of memory; choose one that does not"
            ) from error
        self.rows: Tensor
        self.register_buffer("rows", rows, persistent=False)

    def locate(self, step: Step) -> Tensor:
        """The rows of the batch, (B,).

        Raises:
            DataError: the step does not say which samples it has.
        """
        if step.index is None:
            raise DataError("this method remembers samples: pass index, the row of each in the training set, (B,)")
        return step.index // distributed.world_size()

    def read(self, step: Step) -> Tensor:
        """What was written for these samples, (B, C, H, W) fp32."""
        stored = self._image(self.rows[self.locate(step)]).float()
        if self.unit:
            stored *= self.unit
        if self.aligned and step.geometry is not None:
            down, right, mirrored = self._placement(step.geometry)
            stored = shifted(stored, down, right, mirrored)
        return stored

    def write(self, step: Step, values: Tensor) -> None:
        """Remember ``values`` (B, C, H, W) for these samples."""
        if self.aligned and step.geometry is not None:
            down, right, mirrored = self._placement(step.geometry)
            values = shifted(values, -down, torch.where(mirrored, right, -right), mirrored)
        values = values.detach().permute(0, 2, 3, 1).flatten(1)
        if self.unit:
            values = (values / self.unit).round().clamp(-127, 127)
        self.rows[self.locate(step)] = values.to(self.rows.dtype)

    def draw_corners(self, radius: float) -> None:
        """Fill all rows with +-radius, either sign with probability 1/2."""
        self.rows.bernoulli_().mul_(2).sub_(1).mul_(round(radius / self.unit) if self.unit else radius)

    def _placement(self, geometry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far down and right in the image each crop begins, and whether it was flipped; (B,) each."""
        top, left, flipped = geometry.unbind(1)
        return top - self.pad, left - self.pad, flipped == 1

    def _image(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), self.height, self.width, -1).permute(0, 3, 1, 2)

    def get_extra_state(self) -> Tensor:
        return distributed.gather(self.rows)

    def set_extra_state(self, state: Tensor) -> None:
        share = state[distributed.rank() :: distributed.world_size()]
        self.rows[: len(share)] = share[: len(self.rows)].to(self.rows.device)


class BatchMemory(SampleMemory):
    """One image-shaped row per place in the batch: what the previous batch left."""

    def __init__(self, info: TaskInfo) -> None:
        super().__init__(info, samples=info.batch_size)

    def locate(self, step: Step) -> Tensor:
        return torch.arange(len(step.x), device=step.x.device)


def shifted(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """out[i, :, r, c] = images[i, :, r + down_i, c' + right_i], c' = W - 1 - c where mirrored_i, else c; 0 outside."""
    height, width = images.shape[2:]
    r = torch.arange(height, device=images.device) + down[:, None]
    c = torch.arange(width, device=images.device)
    c = torch.where(mirrored[:, None], c.flip(0), c) + right[:, None]
    seen = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None, :]
    r, c = r.clamp(0, height - 1), c.clamp(0, width - 1)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[sample, r[:, :, None], c[:, None, :]]
    return (moved * seen[..., None]).permute(0, 3, 1, 2)


def normalised_l1(grad: Tensor) -> Tensor:
    """grad / ||grad||_1, the norm over the whole batch of all processes; zero stays zero."""
    return grad / distributed.sum_(grad.abs().sum()).clamp_min(torch.finfo(grad.dtype).tiny)


def perturbation_memory(info: TaskInfo, compact: bool, aligned: bool = False) -> SampleMemory:
    """Per-sample perturbations: int8 in units of epsilon / 127 if ``compact``, else fp32."""
    return SampleMemory(info, unit=info.threat.epsilon / 127 if compact else None, aligned=aligned)


class Remembered(Init):
    """delta0 = the training perturbation of the last visit; corners +-epsilon at the start.

    Args:
        memory: where it is kept.
        reset_every: epochs after which it starts anew from corners, counted from the first; None for never.
    """

    def __init__(self, memory: SampleMemory, *, reset_every: int | None = None) -> None:
        super().__init__()
        if reset_every is not None and reset_every < 1:
            raise SettingError(f"reset_every is {reset_every}; it must be at least 1 epoch")
        self.memory, self.reset_every = memory, reset_every

    def forward(self, target: Target, step: Step) -> Tensor:
        if self.starts(step.clock):
            self.start(step)
        return self.memory.read(step)

    def starts(self, clock: Clock) -> bool:
        """Whether it begins from corners."""
        return clock.batch == 0 and (clock.epoch % self.reset_every if self.reset_every else clock.epoch) == 0

    def graph_key(self, step: Step) -> GraphKey:
        return None if self.starts(step.clock) else ()  # rare, and the host may round epsilon

    def start(self, step: Step) -> None:
        """Forget everything."""
        self.memory.draw_corners(step.threat.epsilon)

    def observe(self, step: Step) -> None:
        assert step.delta is not None
        self.memory.write(step, step.delta)


class MomentumPrior(Remembered):
    """delta0 is advanced by the sign of a gradient momentum, apart from the training perturbation.

    v_i <- g_i / ||g||_1 + mu v_i, the norm over the whole batch; next delta0 = P(delta0 + alpha * sign v_i).

    Args:
        decay: mu.
        relative_alpha: alpha over epsilon.
        reset_every: epochs between resets.
        compact: perturbations in int8 and momenta in bfloat16 instead of fp32.
        aligned: see SampleMemory.
    """

    def __init__(
        self,
        info: TaskInfo,
        *,
        decay: float,
        relative_alpha: float,
        reset_every: int,
        compact: bool,
        aligned: bool = False,
    ) -> None:
        super().__init__(perturbation_memory(info, compact, aligned), reset_every=reset_every)
        self.momentum = SampleMemory(info, dtype=torch.bfloat16 if compact else torch.float32, aligned=aligned)
        self.decay, self.relative_alpha = decay, relative_alpha

    def start(self, step: Step) -> None:
        super().start(step)
        self.momentum.rows.zero_()

    def observe(self, step: Step) -> None:
        assert step.grad0 is not None
        assert step.delta0 is not None
        v = normalised_l1(step.grad0) + self.decay * self.momentum.read(step)
        self.momentum.write(step, v)
        threat = step.threat
        move = self.relative_alpha * threat.epsilon * threat.direction(v)
        self.memory.write(step, threat.box(step.x, threat.project(step.delta0 + move)))


def published_reset(info: TaskInfo) -> int:
    """Epochs between resets of FGSM-EP and MEP: 40 for CIFAR-10, 10 for CIFAR-100 and Tiny-ImageNet."""
    return 40 if info.classes <= 10 else 10
