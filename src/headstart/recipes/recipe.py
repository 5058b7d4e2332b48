"""Recipes: everything a training run depends on, as one flat, validated record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, cast

from headstart.errors import SettingError, unknown
from headstart.fields import above, at_least, at_most, below, check_fields, pixel_fraction

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["one-cycle", "triangular", "multi-step", "constant"]
Precision = Literal["fp32", "bf16"]
Log = Literal["auto", "tensorboard", "csv", "wandb", "mlflow", "none"]
OnCollapse = Literal["warn", "stop", "rollback"]
Validation = Literal["random", "last"]
ScheduleBy = Literal["update", "epoch"]
OnBadImage = Literal["error", "skip"]
BatchNormMode = Literal["train", "train-frozen-stats", "eval"]
DEVICES = ("auto", "cpu", "cuda", "cuda:INDEX")
# What may differ when a run is resumed: where it runs and how it is kept, not what is computed.
RESUMABLE = (
    "max_steps", "device", "devices", "num_nodes", "workers", "checkpoint_every", "keep", "on_collapse", "watch_every",
    "curve_every", "log",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1

PositiveInt: TypeAlias = Annotated[int, at_least(1)]
NonNegativeInt: TypeAlias = Annotated[int, at_least(0)]
NonNegativeFloat: TypeAlias = Annotated[float, at_least(0)]
Share: TypeAlias = Annotated[float, at_least(0), below(1)]


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
        optimizer: rule of the weight update; muon orthogonalises the steps of filters and matrices.
        lr: peak learning rate.
        momentum: momentum of SGD and Muon.
        weight_decay: weight decay, on every parameter.
        schedule: learning rate over the run.
        schedule_by: step the schedule at every update, or at the end of every epoch.
        cycle_momentum: with one-cycle, momentum (Adam's first beta) goes from 0.95 to 0.85 at the peak and back.
        peak: share of the run at which one-cycle and triangular reach the peak.
        milestones: epochs at which multi-step multiplies the rate by 0.1.
        clip_gradient: largest gradient norm of an update; 0 for none.
        layer_decay: factor on the rate for every step from the output layer towards the images; 1 for one rate.
        freeze: layers that are not trained, by name, such as [conv1, layer1]; they stay in evaluation mode.
        freeze_batch_norm: keep statistics, scale and shift of batch-norm as they are, and use those statistics.
        average: decay of the weight average per update; 0 for none.
        average_warmup: let the decay grow to that, min(decay, (1 + t) / (10 + t)) at update t; short runs need it.
        ascent_batch_norm: batch-norm in ascent passes whose method does not name a mode.
        ascent_dropout: dropout and drop-path in passes that seek a perturbation; without, these see the whole network.
        precision: fp32, or bf16 for bfloat16 autocast around the network.
        checkpoint_activations: run blocks again in the backward pass instead of keeping what is inside them.
        compile: compile the network with torch.compile.
        cuda_graphs: on one CUDA device, record updates and replay them where the method allows it.
        seed: seed of initial weights, order, augmentation and every random start.
        device: where to train, auto, cpu, cuda or one of several as in cuda:1; auto takes CUDA where there is one.
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
        curve_every: batches between measurements of the live network on 256 validation images inside an epoch, for the
            curves of the run; 0 for none.
        on_bad_image: stop at an unreadable image, or leave it out and say how many.
        log: where metrics and settings go beside metrics.jsonl; auto is TensorBoard where it is installed.
    """

    data: str = "digits"
    image_column: str | None = None
    label_column: str | None = None
    image_size: PositiveInt | None = None
    model: str = "resnet18"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    method: str = "fgsm-sdi"
    method_args: dict[str, Any] = field(default_factory=dict)
    norm: str = "linf"
    epsilon: float | str = "8/255"
    epsilon_ramp: Share = 0.0
    epochs: PositiveInt = 30
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 128
    accumulate: PositiveInt = 1
    drop_last: bool = False
    pad: NonNegativeInt = 4
    samples: PositiveInt | None = None
    val_size: PositiveInt = 1000
    validation: Validation = "random"
    optimizer: Optimizer = "sgd"
    lr: Annotated[float, above(0)] = 0.1
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    schedule: Schedule = "one-cycle"
    schedule_by: ScheduleBy = "update"
    cycle_momentum: bool = False
    peak: Share = 0.3
    milestones: list[int] = field(default_factory=list)
    clip_gradient: NonNegativeFloat = 0.0
    layer_decay: Annotated[float, above(0), at_most(1)] = 1.0
    freeze: list[str] = field(default_factory=list)
    freeze_batch_norm: bool = False
    average: Share = 0.0
    average_warmup: bool = True
    ascent_batch_norm: BatchNormMode = "train"
    ascent_dropout: bool = True
    precision: Precision = "fp32"
    checkpoint_activations: bool = False
    compile: bool = False
    cuda_graphs: bool = True
    seed: Annotated[int, at_least(0), at_most(LARGEST_SEED)] = 0
    device: str = "auto"
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    sync_batch_norm: bool = False
    deterministic: bool = False
    workers: NonNegativeInt | None = None
    eval_every: PositiveInt = 1
    checkpoint_every: NonNegativeInt = 0
    keep: NonNegativeInt = 0
    on_collapse: OnCollapse = "warn"
    watch_every: NonNegativeInt = 200
    curve_every: NonNegativeInt = 0
    on_bad_image: OnBadImage = "error"
    log: Log = "auto"

    def __post_init__(self) -> None:
        from headstart.core.threat import ThreatModel  # here, since reading the fields must not take loading torch

        object.__setattr__(self, "epsilon", pixel_fraction(self.epsilon))
        check_fields(self, skip=("epsilon",))
        ThreatModel(cast(float, self.epsilon), self.norm)
        if early := [m for m in self.milestones if m < 1]:
            raise SettingError(f"milestone {early[0]} is not an epoch; milestones count from 1")
        if self.cycle_momentum and self.schedule != "one-cycle":
            raise SettingError(f"cycle_momentum is for schedule one-cycle, not {self.schedule}; leave it out")
        if self.checkpoint_activations and self.compile:
            raise SettingError("checkpoint_activations does not go with compile; leave one of them out")
        if self.schedule == "multi-step" and not self.milestones:
            raise SettingError("schedule multi-step needs milestones, a list of epochs such as [100, 105]")
        self._check_device()
        processes = self.devices * self.num_nodes
        if self.batch_size % processes:
            raise SettingError(f"batch_size {self.batch_size} does not divide among {processes} processes")
        if (share := self.batch_size // processes) % self.accumulate:
            raise SettingError(
                f"accumulate is {self.accumulate}; it must divide the {share} samples that each process has of a batch"
            )

    def _check_device(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise unknown("device", self.device, DEVICES)
        if ":" in self.device and self.devices * self.num_nodes > 1:
            raise SettingError(f"device {self.device} is one device, but devices is {self.devices}; use device cuda")
