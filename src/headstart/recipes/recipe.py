"""Recipes: everything a training run depends on, as one flat, validated record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_type_hints

from headstart.errors import UserError
from headstart.recipes.fields import pixel_fraction, typed

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["one-cycle", "triangular", "multi-step", "constant"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
OnCollapse = Literal["warn", "stop", "rollback"]
Validation = Literal["random", "last"]
ScheduleBy = Literal["update", "epoch"]
OnBadImage = Literal["error", "skip"]
BatchNormMode = Literal["train", "train-frozen-stats", "eval"]
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Recipe:
    """The full settings of a run. Every field is a key of a recipe file and a flag of ``headstart train``.

    Attributes:
        data: data set, see ``headstart list datasets``.
        image_column: column of parquet and hub sets that holds the images; null finds it.
        label_column: column of parquet and hub sets that holds the labels; null finds it.
        image_size: pixels to which random crops of mixed photographs are resized; null takes images of one size as is.
        model: network, see ``headstart list models``, or module:callable.
        model_args: further arguments of the network.
        weights: start from a weights file, a run folder or hub:OWNER/NAME; null for fresh weights.
        method: training method, see ``headstart list methods``.
        method_args: settings of the method.
        norm: norm of the threat model, linf or l2.
        epsilon: perturbation budget in pixel fractions; may be written 8/255.
        epsilon_ramp: share of the run over which epsilon rises linearly from 0.
        epochs: passes over the training part.
        max_steps: stop after so many weight updates; schedules still follow the full length.
        batch_size: samples per update over all processes.
        accumulate: equal parts in which a process takes its share of a batch, one after the other, to save memory.
        drop_last: leave out the incomplete last batch of an epoch.
        pad: random crop shift in pixels, with a random flip; 0 for no augmentation. Without effect beside image_size.
        samples: train on the first so many images alone, the validation part among them; null for all.
        val_size: images held out of the training set for choosing the checkpoint.
        validation: which images those are, random ones (the same for every seed) or the last of the training set.
        optimizer: sgd, adam or adamw.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: on every parameter.
        schedule: learning rate over the run.
        schedule_by: step the schedule at every update, or at the end of every epoch.
        cycle_momentum: with one-cycle, momentum (Adam's first beta) goes from 0.95 to 0.85 at the peak and back.
        peak: share of the run at which one-cycle and triangular reach the peak.
        milestones: epochs at which multi-step multiplies the rate by 0.1.
        clip_gradient: largest gradient norm of an update; 0 for none.
        average: decay of the weight average per update; 0 for none.
        average_warmup: let the decay grow to that, min(decay, (1 + t) / (10 + t)) at update t; short runs need it.
        ascent_batch_norm: batch-norm in ascent passes whose method does not name a mode.
        precision: fp32, or bf16 for bfloat16 autocast around the network.
        compile: compile the network with torch.compile.
        cuda_graphs: on one CUDA device, record updates and replay them where the method allows it.
        seed: of initial weights, order, augmentation and every random start.
        device: auto takes CUDA where there is one.
        devices: processes on this node; torchrun and SLURM say it themselves.
        num_nodes: nodes; torchrun and SLURM say it themselves.
        sync_batch_norm: batch statistics over all processes (CUDA only) instead of each process's own.
        deterministic: only algorithms that give the same result every time; slower on CUDA.
        workers: processes per device that decode images where image_size is given; null for one per core.
        eval_every: epochs between validations.
        checkpoint_every: updates between checkpoints; 0 for at the end of epochs only.
        keep: how many epoch checkpoints to keep beside last and best; 0 for none.
        on_collapse: on catastrophic overfitting go on, stop, or go back to the last sound state with safer steps.
        watch_every: batches between looks for a collapse inside an epoch, for stop and rollback; 0 for none.
        on_bad_image: stop at an unreadable image, or leave it out and say how many.
    """

    data: str = "digits"
    image_column: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    model: str = "resnet18"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    method: str = "fgsm-sdi"
    method_args: dict[str, Any] = field(default_factory=dict)
    norm: str = "linf"
    epsilon: float | str = "8/255"
    epsilon_ramp: float = 0.0
    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    drop_last: bool = False
    pad: int = 4
    samples: int | None = None
    val_size: int = 1000
    validation: Validation = "random"
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    schedule_by: ScheduleBy = "update"
    cycle_momentum: bool = False
    peak: float = 0.3
    milestones: list[int] = field(default_factory=list)
    clip_gradient: float = 0.0
    average: float = 0.0
    average_warmup: bool = True
    ascent_batch_norm: BatchNormMode = "train"
    precision: Precision = "fp32"
    compile: bool = False
    cuda_graphs: bool = True
    seed: int = 0
    device: Device = "auto"
    devices: int = 1
    num_nodes: int = 1
    sync_batch_norm: bool = False
    deterministic: bool = False
    workers: int | None = None
    eval_every: int = 1
    checkpoint_every: int = 0
    keep: int = 0
    on_collapse: OnCollapse = "warn"
    watch_every: int = 200
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        from headstart.core.threat import ThreatModel  # here, since reading the fields must not take loading torch

        object.__setattr__(self, "epsilon", pixel_fraction(self.epsilon))
        for name, hint in get_type_hints(Recipe).items():
            if name != "epsilon":
                object.__setattr__(self, name, typed(name, getattr(self, name), hint))
        ThreatModel(cast(float, self.epsilon), self.norm)
        ones = ("epochs", "batch_size", "accumulate", "devices", "num_nodes", "val_size", "eval_every")
        at_least = dict.fromkeys(ones, 1)
        at_least |= dict.fromkeys(("pad", "checkpoint_every", "keep", "seed", "watch_every"), 0)
        at_least |= dict.fromkeys(("momentum", "weight_decay", "clip_gradient"), 0)
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("epsilon_ramp", "average", "peak"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.seed > LARGEST_SEED:
            raise UserError(f"seed is {self.seed}; it must be at most {LARGEST_SEED}")
        if self.lr <= 0:
            raise UserError(f"lr is {self.lr}; it must be above 0")
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}; it must be at least 1 pixel, or null")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"workers is {self.workers}; it must be at least 0, or null")
        for name in ("max_steps", "samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if early := [m for m in self.milestones if m < 1]:
            raise UserError(f"milestone {early[0]} is not an epoch; milestones count from 1")
        if self.cycle_momentum and self.schedule != "one-cycle":
            raise UserError(f"cycle_momentum is for schedule one-cycle, not {self.schedule}; leave it out")
        if self.schedule == "multi-step" and not self.milestones:
            raise UserError("schedule multi-step needs milestones, a list of epochs such as [100, 105]")
        processes = self.devices * self.num_nodes
        if self.batch_size % processes:
            raise UserError(f"batch_size {self.batch_size} does not divide among {processes} processes")
        if self.batch_size // processes % self.accumulate:
            raise UserError(
                f"accumulate is {self.accumulate}; it must divide the {self.batch_size // processes} samples that each "
                "process has of a batch"
            )
