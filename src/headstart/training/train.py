"""The one training loop."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart.attacks.collapse import collapsed
from headstart.core import Clock, Method, Step, Target, TaskInfo, distributed
from headstart.core.layers import output_layer
from headstart.core.threat import ThreatModel
from headstart.data import Batch, Found, ImageSet, TrainingSet
from headstart.errors import UserError
from headstart.methods.registry import build_method
from headstart.models import build_model, check_network, normalization_of
from headstart.recipes.recipe import Recipe
from headstart.runs.checkpoint import random_state, set_random_state
from headstart.runs.environment import environment, not_deterministic
from headstart.runs.files import save_weights
from headstart.runs.launch import Interrupted, StopSignal, determinism, explained, launched, make_fabric
from headstart.runs.store import RunStore
from headstart.training.average import WeightAverage
from headstart.training.feed import batches, load_parts
from headstart.training.graphs import GraphedUpdates
from headstart.training.guard import Guard, not_finite
from headstart.training.meters import Meters, Stopwatch
from headstart.training.monitor import Monitor
from headstart.training.optim import make_optimizer, make_schedule
from headstart.training.progress import TrainingProgress
from headstart.training.start import start_from

READING = ("image_size", "image_column", "label_column")  # what evaluation must know to read the same images
WATCHED = 256  # validation images on which the live network is watched while its average is being selected
GLANCE = 64  # at most so many for a look inside an epoch, and no more than a batch has: about the cost of two updates


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, the network of model.safetensors, the rows of metrics.jsonl and its cost."""

    out: Path
    model: nn.Module
    metrics: list[dict[str, Any]]
    cost: dict[str, float]


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    data: Found | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train by a recipe into the folder ``out``, or go on with what is there.

    Args:
        data: training set; default the recipe's by name.
        model: network from images (B, C, H, W) in [0, 1] to logits (B, K); default the recipe's by name.

    Raises:
        UserError: bad settings or data, an existing folder without ``resume``, another recipe in it, a full disk,
            too little memory, or a loss that is not finite.
        LostProcess: another process of the run has ended.
        Interrupted: stopped by a signal, with the state saved.
    """
    folder = RunStore(Path(out))
    recipe = launched(folder.resolved(recipe))
    folder.check(recipe, resume)
    with determinism(recipe.deterministic), explained(recipe, folder.path):
        fabric = make_fabric(recipe, folder.path)
        torch.manual_seed(recipe.seed)
        train_set, val_set = load_parts(recipe, data)
        classes, channels = len(train_set.classes), train_set.shape[0]
        state = folder.load() if resume else None
        if recipe.weights is not None and state is None:
            recipe, network = start_from(recipe, model, classes, channels)
        else:
            network = model if model is not None else build_model(recipe.model, classes, channels, recipe.model_args)
        trainer = Trainer(recipe, folder, fabric, network, train_set, val_set)
        if progress and fabric.is_global_zero:
            print(
                f"{recipe.data}: {len(train_set)} images to train on, {len(val_set)} to choose the checkpoint by, "
                f"{len(train_set.classes)} classes",
                file=sys.stderr,
            )
        if state is None:
            folder.begin(recipe)
        else:
            trainer.load_state_dict(state)
        distributed.barrier()  # nobody writes a new checkpoint while somebody still reads the old one
        return trainer.fit(progress)


def _side_stream(device: torch.device) -> torch.cuda.StreamContext:
    """Makes another stream than the default one the current one."""
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class Trainer:
    """Everything a run consists of, and the loop over it."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunStore,
        fabric: Fabric,
        network: nn.Module,
        train_set: TrainingSet,
        val_set: ImageSet,
    ) -> None:
        self.recipe, self.folder, self.fabric = recipe, folder, fabric
        self.device = fabric.device
        world = fabric.world_size
        self.loader = batches(train_set, recipe, self.device, fabric.global_rank, world)
        if self.loader.batches == 0:
            raise UserError(f"batch_size {recipe.batch_size} exceeds the {self.loader.samples} training images")
        self.threat = ThreatModel(cast(float, recipe.epsilon), recipe.norm)
        self.classes = train_set.classes
        if recipe.sync_batch_norm and world > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_network(self.network, train_set.shape, len(train_set.classes), train_set.name)
        self.method = self._build_method(train_set)
        per_epoch = self.loader.batches * self.method.replays
        self.clock = Clock(updates=recipe.epochs * per_epoch, epochs=recipe.epochs)
        self.optimizer = make_optimizer(recipe, self.network)
        self.schedule = make_schedule(recipe, self.optimizer, self.clock.updates, per_epoch)
        self.average = (
            WeightAverage(self.network, recipe.average, warmup=recipe.average_warmup) if recipe.average else None
        )
        # Static: a smaller last batch would otherwise make a slower network for every size, and compile it late.
        fast = cast(nn.Module, torch.compile(self.network, dynamic=False)) if recipe.compile else None
        self.synchronised = fabric.setup_module(fast if fast is not None else self.network) if world > 1 else None
        self.target = Target(
            self.network,
            fast=fast,
            synchronised=self.synchronised,
            bf16=recipe.precision == "bf16",
            ascent_batch_norm=recipe.ascent_batch_norm,
        )
        self.graphs = self._make_graphs()
        self.monitor = Monitor(val_set, self.device)
        learned = {"network": self.network, "optimizer": self.optimizer, "method": self.method}
        learned |= {"average": self.average} if self.average else {}
        self.guard = Guard(recipe, learned, adversarial=self.method.adversarial)
        self.halted = False
        self.meters = Meters(self.device)
        self.metrics: list[dict[str, Any]] = []
        self.rollbacks: list[dict[str, Any]] = []
        self.stopwatch = Stopwatch(self.device)
        self.best = -1.0
        self.stop = StopSignal()
        torch.manual_seed(recipe.seed + 1 + fabric.global_rank)  # random starts differ between processes

    @property
    def selected(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.average.module if self.average else self.network

    def _build_method(self, data: TrainingSet) -> Method:
        batches, recipe = self.loader.batches, self.recipe
        info = TaskInfo(
            classes=len(data.classes),
            image_shape=data.shape,
            threat=self.threat,
            samples=self.loader.samples,
            batch_size=self.loader.batch_size // recipe.accumulate,
            updates=recipe.epochs * batches,
            epochs=recipe.epochs,
            features=output[1].in_features if (output := output_layer(self.network)) else 0,
            pad=self.loader.pad,
            rescaled=self.loader.rescales,
        )
        method = build_method(recipe.method, info, recipe.method_args)
        if method.replays > 1 and recipe.accumulate > 1:
            raise UserError(
                f"method {recipe.method} carries its perturbation from update to update on one batch, which accumulate "
                "takes apart; leave accumulate out"
            )
        return method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _make_graphs(self) -> GraphedUpdates | None:
        recipe = self.recipe
        if not recipe.cuda_graphs or self.device.type != "cuda" or self.synchronised or recipe.accumulate > 1:
            return None
        return GraphedUpdates(self._descend, self.method, self.optimizer, self.target.passes, self.device)

    # -- the loop ----------------------------------------------------------------------------------------------

    def fit(self, progress: bool = True) -> TrainResult:
        """Train to the end of the recipe, or to max_steps."""
        end = min(self.clock.updates, self.recipe.max_steps or self.clock.updates)
        show = progress and self.fabric.is_global_zero
        bar = TrainingProgress(end, self.recipe.batch_size, self.clock.update, show)
        # Graphs are recorded off the default stream, and must follow the eager updates on their own.
        stream = _side_stream(self.device) if self.graphs else nullcontext()
        with self.stop.listening(), stream, bar:
            while self.clock.update < end or self.clock.batch == self.loader.batches:  # the latter: not yet closed
                self._train_epoch(end, bar)
                if self.clock.batch:  # stopped inside the epoch
                    break
                bar.validated(self._close_epoch())
                if self.halted:
                    break
        self.save()
        row = self.metrics[-1] if self.metrics else {"epoch": 0}
        varying = not_deterministic(self.device, self.recipe.deterministic)
        record = {**self.cost(), "not_deterministic": varying, "environment": environment(self.device)}
        self.folder.finish(self._counted(), self._metadata(row), record)
        if self.fabric.is_global_zero:
            self.fabric.logger.finalize("success")
        if self.folder.best.exists():
            self.selected.load_state_dict(load_file(self.folder.best))
        return TrainResult(self.folder.path, self.selected, self.metrics, self.cost())

    def _train_epoch(self, end: int, bar: TrainingProgress) -> None:
        """From where the clock stands to the end of the epoch, or of the run."""
        with self.stopwatch.counting("training"):
            for batch in self.loader.epoch(self.clock.epoch, start=self.clock.batch):
                for _ in range(self.method.replays):
                    self.update(batch)
                self.clock = replace(self.clock, batch=self.clock.batch + 1)
                bar.advance(self.clock, self.method.replays)
                self._between_batches()
                if self.halted or self.clock.update >= end:
                    break
        if self.clock.batch >= self.loader.batches:
            self.clock = replace(self.clock, epoch=self.clock.epoch + 1, batch=0)

    def _between_batches(self) -> None:
        """Look for a collapse, save, stop: whatever of it is due."""
        watch, every = self.recipe.watch_every, self.recipe.checkpoint_every
        if watch and self.clock.batch % watch == 0 and self.clock.batch < self.loader.batches:
            self._look()
        stop = self.stop.agreed()
        if stop or (every and self.clock.update % every < self.method.replays):
            with self.stopwatch.counting("saving"):
                self.save()
        if stop:
            raise Interrupted

    def update(self, batch: Batch) -> None:
        """One weight update. Nothing in here waits for the device."""
        parts = self._parts(batch)
        for k, part in enumerate(parts):
            clock = replace(self.clock, batch=self.clock.batch * self.recipe.accumulate + k)
            step = Step(self._guarded(part.x), part.y, self._threat_now(), clock, part.index, part.geometry)
            if self.graphs:
                loss, step = self.graphs(step)
            else:
                loss = self._descend(step, share=len(part.y) / len(batch.y), last=k + 1 == len(parts))
            self.method.observe(step)
            assert step.logits is not None
            self.meters.add(loss, step.logits, step.y, self.clock.update)
        self.schedule.step()
        if self.average:
            self.average.update(self.method.averages(step))
        self.clock = replace(self.clock, update=self.clock.update + 1)

    def _parts(self, batch: Batch) -> list[Batch]:
        """The batch in the parts whose gradients are added up."""
        if self.recipe.accumulate == 1:
            return [batch]
        size = -(-len(batch.y) // self.recipe.accumulate)
        x, y, index = (torch.split(tensor, size) for tensor in (batch.x, batch.y, batch.index))
        geometry = torch.split(batch.geometry, size) if batch.geometry is not None else [None] * len(y)
        return [Batch(*part) for part in zip(x, y, index, geometry, strict=True)]

    def _guarded(self, x: Tensor) -> Tensor:
        """The images, with the guard's noise once there was a collapse."""
        if not self.guard.noise:
            return x
        threat = self._threat_now()
        return x + threat.box(x, threat.uniform(x, self.guard.noise))

    def _descend(self, step: Step, share: float = 1.0, last: bool = True) -> Tensor:
        """The part of an update that is the same whenever the method's graph key is; returns the loss.

        Args:
            share: of this part in its batch.
            last: whether it completes the batch, so that the weights move.
        """
        alone = last or self.synchronised is None
        with nullcontext() if alone else self.fabric.no_backward_sync(self.synchronised):  # type: ignore[arg-type]
            loss: Tensor = self.method(self.target, step)
            self.fabric.backward(loss * share if share < 1 else loss)
        if last:
            if self.guard.clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.guard.clip, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _threat_now(self) -> ThreatModel:
        ramp = self.recipe.epsilon_ramp
        if not ramp or self.clock.fraction >= ramp:
            return self.threat
        return replace(self.threat, epsilon=self.threat.epsilon * self.clock.fraction / ramp)

    def _close_epoch(self) -> dict[str, Any]:
        """Read the meters, validate, keep the best, write the row and the checkpoint."""
        epoch = self.clock.epoch
        self._ensure_finite()
        row: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "update": self.clock.update, **self.meters.read()}
        self.meters.reset()
        # Batch-norm statistics differ between processes; those of the first are validated and kept.
        distributed.broadcast_([*self.network.buffers(), *(self.average.module.buffers() if self.average else ())])
        threat = self._threat_now()
        row |= {"lr": self.schedule.get_last_lr()[0], "epsilon": threat.epsilon, "collapsed": False}
        if epoch % self.recipe.eval_every == 0 or self.clock.update == self.clock.updates:
            with self.stopwatch.counting("validation"):
                row["val"] = self.monitor.measure(self.selected, threat)
                if self.average:
                    row["live"] = self.monitor.measure(self.network, threat, WATCHED)
            row["collapsed"] = self.method.adversarial and collapsed(row.get("live", row["val"]))
            accuracy = row["val"]["pgd" if self.method.adversarial else "clean"]
            if threat == self.threat and accuracy >= self.best:
                self.best = accuracy
                self.folder.save_best(self._counted(), self._metadata(row))
            self._judge(row.get("live", row["val"]))
        if self.rollbacks:
            row["rollbacks"], self.rollbacks = self.rollbacks, []
        self.metrics.append(row)
        self.folder.add_row(row)
        if self.fabric.is_global_zero:
            flat = {f"val/{k}": v for k, v in row.get("val", {}).items() if k != "n"}
            flat |= {k: row[k] for k in ("loss", "train_accuracy", "lr", "epsilon")}
            self.fabric.log_dict(flat, step=self.clock.update)
        self.save()
        if self.recipe.keep:
            self.folder.keep_epoch(self.state_dict(), epoch, self.recipe.keep)
        return row

    # -- when training breaks ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Inside an epoch: is everything finite, and, where the recipe reacts to it, is there a collapse?"""
        with self.stopwatch.counting("guard"):
            self._ensure_finite()
            if self.guard.reaction == "warn":
                return
            threat = self._threat_now()
            measured = self.monitor.measure(self.network, threat, min(GLANCE, self.recipe.batch_size))
            if self.guard.fault(measured):  # a few images may mislead
                measured = self.monitor.measure(self.network, threat, WATCHED)
            self._judge(measured)

    def _judge(self, measured: dict[str, float]) -> None:
        """React to what was measured of the live network as the recipe says."""
        with self.stopwatch.counting("guard"):
            fault = self.guard.judge(measured, self.clock)
            if fault is None:
                return
            if self.guard.reaction == "rollback":
                self.halted = not self._go_back(fault, finite=True)
            else:
                self._say(f"{fault} ({self.guard.reaction})")
                self.halted = self.guard.reaction == "stop"

    def _go_back(self, fault: str, finite: bool) -> bool:
        """Return to the last sound state and go on with more care; False if there is no such state or no such way."""
        measure = self.guard.go_back(finite)
        if measure is None:
            self._say(f"{fault}; nothing to go back to, or no safer way to go on")
            return False
        update = self.guard.sound_update
        self._say(f"{fault}; back to the weights of update {update}, {measure} from here on")
        self.rollbacks.append({"update": self.clock.update, "to_update": update, "fault": fault, "measure": measure})
        self.meters.first_broken.fill_(-1)
        self.graphs = self._make_graphs()  # recordings know neither the optimiser's new tensors nor the measure
        return True

    def _ensure_finite(self) -> None:
        """Before anything is written over good files: is loss, network or method infinite or NaN? Go back, or stop."""
        everything = {
            "loss": [self.meters.broken()],
            "weights": [*self.network.parameters(), *self.network.buffers()],
            "method's state": [*self.method.parameters(), *self.method.buffers()],
        }
        what = not_finite(everything)
        if what is None:
            return
        fault = f"the {what} became infinite or NaN before update {self.clock.update}"
        batch = self._keep_broken_batch()
        if self.guard.reaction == "rollback" and self._go_back(fault + batch, finite=False):
            return
        last = self.folder.last
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint exists yet"
        raise UserError(f"{fault}; {kept}{batch}. Try a lower --lr or --clip_gradient 1")

    def _say(self, text: str) -> None:
        if self.fabric.is_global_zero:
            print(text, file=sys.stderr)

    def _keep_broken_batch(self) -> str:
        """Write the batch whose loss was not finite first; the order of an epoch follows from its number."""
        update = int(self.meters.first_broken)
        if update < 0 or not self.fabric.is_global_zero:
            return ""
        epoch, batch = divmod(update // self.method.replays, self.loader.batches)
        cut = next(self.loader.epoch(epoch, start=batch))
        path = self.folder.broken_batch
        save_weights(path, {"x": cut.x, "y": cut.y, "index": cut.index}, {"update": str(update), "epoch": str(epoch)})
        return f", the batch of update {update} is in {path}"

    # -- what is kept ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoints/last.pt, never with a loss or weights that are infinite or NaN."""
        self._ensure_finite()
        self.folder.save(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to end in the same weights."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "method": self.method.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "clock": asdict(self.clock),
            "meters": self.meters.state(),
            "metrics": self.metrics,
            "passes": asdict(self.target.passes),
            "rollbacks": self.rollbacks,
            "guard": self.guard.state_dict(),
            "seconds": self.stopwatch.seconds,
            "processor_seconds": self.stopwatch.processor_seconds,
            "best": self.best,
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            UserError: the state belongs to another network or method.
        """
        try:
            self.network.load_state_dict(state["network"])
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.folder.last} belongs to another network or method: {reason}") from error
        clock = Clock(**state["clock"])
        self.clock = replace(clock, batch=min(clock.batch, self.loader.batches))  # on other processes an epoch may
        self.meters.load_state(state["meters"])
        self.metrics, self.rollbacks, self.best = state["metrics"], state["rollbacks"], state["best"]
        self.stopwatch.seconds = state["seconds"]
        self.stopwatch.processor_seconds = state.get("processor_seconds", 0.0)  # not yet in older checkpoints
        self.guard.load_state_dict(state["guard"])
        vars(self.target.passes).update(state["passes"])
        if not set_random_state(state["random"], self.device):  # taken on other processes
            torch.manual_seed(
                (self.recipe.seed + 1 + distributed.rank() + self.clock.update * distributed.world_size()) % 2**32
            )
        self.folder.write_rows(self.metrics)

    def _counted(self) -> nn.Module:
        """The selected network, fit to be written: its average has also taken over what is not averaged."""
        if self.average:
            self.average.refresh()
        return self.selected

    def _metadata(self, row: dict[str, Any]) -> dict[str, str]:
        """What makes a weights file usable on its own."""
        recipe = self.recipe
        return {
            "model": recipe.model,
            "model_args": json.dumps({**recipe.model_args, **normalization_of(self.network)}),
            "classes": json.dumps(self.classes),
            "channels": str(self.loader.shape[0]),
            "data": recipe.data,
            **{key: str(getattr(recipe, key)) for key in READING if getattr(recipe, key) is not None},
            "method": recipe.method,
            "norm": recipe.norm,
            "epsilon": repr(self.threat.epsilon),
            "epoch": str(row["epoch"]),
            "validation": json.dumps(row.get("val", {})),
        }

    def cost(self) -> dict[str, float]:
        """Seconds of updates, of validation, of the guard, and of this process's threads in all of them; images per
        second, passes, peak memory on a GPU.
        """
        seconds = {kind: self.stopwatch.seconds.get(kind, 0.0) for kind in ("training", "validation", "guard")}
        images = self.clock.update / self.method.replays * self.recipe.batch_size
        memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return {
            "seconds": seconds["training"],
            "validation_seconds": seconds["validation"],
            "guard_seconds": seconds["guard"],
            "processor_seconds": self.stopwatch.processor_seconds,
            "images_per_second": images / seconds["training"] if seconds["training"] else 0.0,
            **asdict(self.target.passes),
            "updates": self.clock.update,
            "peak_memory_bytes": memory,
        }
