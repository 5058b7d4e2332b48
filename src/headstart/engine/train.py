"""The one training loop."""

from __future__ import annotations

import errno
import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart import comm
from headstart.config import Recipe
from headstart.core import Clock, Method, Step, Target, TaskInfo
from headstart.data import Batch, ImageSet, ResidentLoader, load
from headstart.engine.average import WeightAverage
from headstart.engine.checkpoint import load_state, save_weights
from headstart.engine.folder import RunFolder
from headstart.engine.graphs import GraphedUpdates
from headstart.engine.launch import Interrupted, StopSignal, make_fabric
from headstart.engine.meters import Meters
from headstart.engine.monitor import Monitor, collapsed
from headstart.engine.optim import make_optimizer, make_schedule
from headstart.engine.progress import TrainingProgress
from headstart.engine.record import environment
from headstart.errors import UserError
from headstart.models import build_model
from headstart.registry import build_method
from headstart.threat import ThreatModel

LIVE_WATCH = 256  # validation images on which the live network is watched while its average is being selected
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


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
    data: ImageSet | None = None,
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
        Interrupted: stopped by a signal, with the state saved.
    """
    folder = RunFolder(Path(out))
    folder.check(recipe, resume)
    fabric = make_fabric(recipe, folder.path)
    torch.manual_seed(recipe.seed)
    available = (data or load(recipe.data, "train", recipe.on_bad_image)).first(recipe.samples)
    train_set, val_set = available.split(recipe.val_size)
    classes, channels = len(train_set.classes), train_set.shape[0]
    network = model if model is not None else build_model(recipe.model, classes, channels, recipe.model_args)
    trainer = Trainer(recipe, folder, fabric, network, train_set, val_set)
    try:
        if resume and folder.last.exists():
            trainer.load_state_dict(load_state(folder.last))
        else:
            folder.begin(recipe)
        return trainer.fit(progress)
    except torch.OutOfMemoryError as error:
        half = max(1, recipe.batch_size // 2)
        raise UserError(f"out of memory at batch_size {recipe.batch_size}; try --batch_size {half}") from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise UserError(f"cannot write to {out} ({error}); what was saved before is untouched") from error


def _side_stream(device: torch.device) -> torch.cuda.StreamContext:
    """Makes another stream than the default one the current one."""
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def check_network(network: nn.Module, data: ImageSet, device: torch.device) -> None:
    """Refuse a network that does not map images of the data set to logits of its classes."""
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, *data.shape, device=device))
    except RuntimeError as error:
        raise UserError(f"the network does not take images of shape {data.shape}: {error}") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, len(data.classes)):
        shape = tuple(getattr(logits, "shape", ()))
        raise UserError(f"the network maps two images to {shape}; {data.name} has {len(data.classes)} classes")


class Trainer:
    """Everything a run consists of, and the loop over it."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        fabric: Fabric,
        network: nn.Module,
        train_set: ImageSet,
        val_set: ImageSet,
    ) -> None:
        self.recipe, self.folder, self.fabric = recipe, folder, fabric
        self.device = fabric.device
        world = fabric.world_size
        self.loader = ResidentLoader(
            train_set,
            recipe.batch_size // world,
            pad=recipe.pad,
            seed=recipe.seed,
            device=self.device,
            rank=fabric.global_rank,
            world_size=world,
            drop_last=recipe.drop_last,
        )
        if self.loader.batches == 0:
            raise UserError(f"batch_size {recipe.batch_size} exceeds the {self.loader.samples} training images")
        self.threat = ThreatModel(cast(float, recipe.epsilon), recipe.norm)
        self.classes = train_set.classes
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_network(self.network, train_set, self.device)
        self.method = self._build_method(train_set)
        self.clock = Clock(updates=self.updates, epochs=recipe.epochs)
        self.optimizer = make_optimizer(recipe, self.network)
        self.schedule = make_schedule(recipe, self.optimizer, self.updates, self.loader.batches * self.method.replays)
        self.average = WeightAverage(self.network, recipe.average) if recipe.average else None
        fast = cast(nn.Module, torch.compile(self.network)) if recipe.compile else None
        synchronised = fabric.setup_module(fast if fast is not None else self.network) if world > 1 else None
        self.target = Target(
            self.network,
            fast=fast,
            synchronised=synchronised,
            bf16=recipe.precision == "bf16",
            ascent_batch_norm=recipe.ascent_batch_norm,
        )
        graphed = recipe.cuda_graphs and self.device.type == "cuda" and world == 1
        self.graphs = (
            GraphedUpdates(self._descend, self.method, self.optimizer, self.target.passes, self.device)
            if graphed
            else None
        )
        self.monitor = Monitor(val_set, self.device)
        watched = val_set.take(slice(0, LIVE_WATCH), val_set.name)
        self.watch = Monitor(watched, self.device) if self.average else self.monitor
        self.meters = Meters(self.device)
        self.metrics: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.best = -1.0
        self.stop = StopSignal()
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(recipe.seed + 1 + fabric.global_rank)  # random starts differ between processes

    @property
    def updates(self) -> int:
        return self.recipe.epochs * self.loader.batches * self.method.replays

    @property
    def selected(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.average.module if self.average else self.network

    def _build_method(self, data: ImageSet) -> Method:
        batches, recipe = self.loader.batches, self.recipe
        info = TaskInfo(
            classes=len(data.classes),
            image_shape=data.shape,
            threat=self.threat,
            samples=self.loader.samples,
            batch_size=self.loader.batch_size,
            updates=recipe.epochs * batches,
            epochs=recipe.epochs,
            features=getattr(getattr(self.network, "linear", None), "in_features", 0),
            pad=self.loader.pad,
        )
        method = build_method(recipe.method, info, recipe.method_args)
        return method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    # -- the loop ----------------------------------------------------------------------------------------------

    def fit(self, progress: bool = True) -> TrainResult:
        """Train to the end of the recipe, or to max_steps."""
        end = min(self.updates, self.recipe.max_steps or self.updates)
        show = progress and self.fabric.is_global_zero
        bar = TrainingProgress(end, self.recipe.batch_size, self.clock.update, show)
        # Graphs are recorded off the default stream, and must follow the eager updates on their own.
        stream = _side_stream(self.device) if self.graphs else nullcontext()
        with self.stop.listening(), stream, bar:
            while self.clock.update < end or self.clock.batch == self.loader.batches:  # the latter: not yet closed
                self._train_epoch(end, bar)
                if self.clock.batch:  # stopped inside the epoch
                    break
                row = self._close_epoch()
                bar.validated(row)
                if row["collapsed"] and self.recipe.on_collapse == "stop":
                    break
        self.save()
        row = self.metrics[-1] if self.metrics else {"epoch": 0}
        record = {**self.cost(), "environment": environment(self.device)}
        self.folder.finish(self._counted(), self._metadata(row), record)
        if self.fabric.is_global_zero:
            self.fabric.logger.finalize("success")
        if self.folder.best.exists():
            self.selected.load_state_dict(load_file(self.folder.best))
        return TrainResult(self.folder.path, self.selected, self.metrics, self.cost())

    def _train_epoch(self, end: int, bar: TrainingProgress) -> None:
        """From where the clock stands to the end of the epoch, or of the run."""
        began = time.perf_counter()
        for batch in self.loader.epoch(self.clock.epoch, start=self.clock.batch):
            for _ in range(self.method.replays):
                self.update(batch)
            self.clock = replace(self.clock, batch=self.clock.batch + 1)
            bar.advance(self.clock, self.method.replays)
            every = self.recipe.checkpoint_every
            if every and self.clock.update % every < self.method.replays:
                began = self._add_time(began)
                self.save()
            if self.stop.asked:
                self._add_time(began)
                self.save()
                raise Interrupted
            if self.clock.update >= end:
                break
        self._add_time(began)
        if self.clock.batch == self.loader.batches:
            self.clock = replace(self.clock, epoch=self.clock.epoch + 1, batch=0)

    def update(self, batch: Batch) -> None:
        """One weight update. Nothing in here waits for the device."""
        step = Step(batch.x, batch.y, self._threat_now(), self.clock, batch.index, batch.geometry)
        loss, step = self.graphs(step) if self.graphs else (self._descend(step), step)
        self.schedule.step()
        self.method.observe(step)
        if self.average:
            self.average.update(self.method.averages(step))
        assert step.logits is not None
        self.meters.add(loss, step.logits, step.y, self.clock.update)
        self.clock = replace(self.clock, update=self.clock.update + 1)

    def _descend(self, step: Step) -> Tensor:
        """The part of an update that is the same whenever the method's graph key is; returns the loss."""
        loss: Tensor = self.method(self.target, step)
        self.fabric.backward(loss)
        if self.recipe.clip_gradient:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_gradient, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _threat_now(self) -> ThreatModel:
        ramp = self.recipe.epsilon_ramp
        if not ramp or self.clock.fraction >= ramp:
            return self.threat
        return replace(self.threat, epsilon=self.threat.epsilon * self.clock.fraction / ramp)

    def _add_time(self, began: float) -> float:
        """Count the time since ``began``; returns the time now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds += now - began
        return now

    def _close_epoch(self) -> dict[str, Any]:
        """Read the meters, validate, keep the best, write the row and the checkpoint."""
        epoch = self.clock.epoch
        row: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "update": self.clock.update, **self.meters.read()}
        self._check_finite()
        self.meters.reset()
        threat = self._threat_now()
        row |= {"lr": self.schedule.get_last_lr()[0], "epsilon": threat.epsilon, "collapsed": False}
        if epoch % self.recipe.eval_every == 0 or self.clock.update == self.updates:
            row["val"] = self.monitor.measure(self.selected, threat)
            if self.average:
                row["live"] = self.watch.measure(self.network, threat)
            row["collapsed"] = collapsed(row.get("live", row["val"]))
            if threat == self.threat and row["val"]["pgd"] >= self.best:
                self.best = row["val"]["pgd"]
                self.folder.save_best(self._counted(), self._metadata(row))
        self.metrics.append(row)
        self.folder.add_row(row)
        if self.fabric.is_global_zero:
            flat = {f"val/{k}": v for k, v in row.get("val", {}).items() if k != "n"}
            flat |= {k: row[k] for k in ("loss", "train_accuracy", "lr", "epsilon")}
            self.fabric.log_dict(flat, step=self.clock.update)
        if row["collapsed"] and not any(r["collapsed"] for r in self.metrics[:-1]):
            print(
                f"catastrophic overfitting at epoch {epoch}: PGD accuracy {row.get('live', row['val'])['pgd']:.1%}, "
                f"FGSM accuracy {row.get('live', row['val'])['fgsm']:.1%} ({self.recipe.on_collapse})",
                file=sys.stderr,
            )
        self.save()
        if self.recipe.keep:
            self.folder.keep_epoch(self.state_dict(), epoch, self.recipe.keep)
        return row

    def _check_finite(self) -> None:
        """Stop before anything is written over good files if the loss or the network is no longer finite."""
        loss = self.meters.read()["loss"]
        broken = ~torch.stack([t.isfinite().all() for t in (*self.network.parameters(), *self.network.buffers())]).all()
        if not math.isfinite(loss) or comm.sum_(broken.float()):  # batch-norm statistics may break in one process
            what = "the weights became infinite or NaN" if math.isfinite(loss) else f"the loss became {loss}"
            last = self.folder.last
            kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint exists yet"
            batch = self._keep_broken_batch()
            raise UserError(
                f"{what} before update {self.clock.update}; {kept}{batch}. Try a lower --lr or --clip_gradient 1"
            )

    def _keep_broken_batch(self) -> str:
        """Write the batch whose loss was not finite first; the order of an epoch follows from its number."""
        update = int(self.meters.first_broken)
        if update < 0 or not self.fabric.is_global_zero:
            return ""
        epoch, batch = divmod(update // self.method.replays, self.loader.batches)
        cut = next(self.loader.epoch(epoch, start=batch))
        path = self.folder.path / "broken-batch.safetensors"
        save_weights(path, {"x": cut.x, "y": cut.y, "index": cut.index}, {"update": str(update), "epoch": str(epoch)})
        return f", the batch of update {update} is in {path}"

    # -- what is kept ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoints/last.pt, unless loss or weights have become infinite or NaN since the epoch began."""
        self._check_finite()
        self.folder.save(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to end in the same weights."""
        cuda = {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "method": self.method.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "clock": asdict(self.clock),
            "meters": self.meters.sums,
            "metrics": self.metrics,
            "passes": asdict(self.target.passes),
            "seconds": self.seconds,
            "best": self.best,
            "rng": {"cpu": torch.get_rng_state(), **cuda},
            "method_name": self.recipe.method,
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
        self.clock = Clock(**state["clock"])
        self.meters.sums.copy_(state["meters"])
        self.metrics = state["metrics"]
        self.seconds, self.best = state["seconds"], state["best"]
        vars(self.target.passes).update(state["passes"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
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
            "model_args": json.dumps(recipe.model_args),
            "classes": json.dumps(self.classes),
            "channels": str(self.loader.shape[0]),
            "data": recipe.data,
            "method": recipe.method,
            "norm": recipe.norm,
            "epsilon": repr(self.threat.epsilon),
            "epoch": str(row["epoch"]),
            "validation": json.dumps(row.get("val", {})),
        }

    def cost(self) -> dict[str, float]:
        """Training seconds without validation, images per second, passes, and peak memory on a GPU."""
        images = self.clock.update / self.method.replays * self.recipe.batch_size
        memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return {
            "seconds": self.seconds,
            "images_per_second": images / self.seconds if self.seconds else 0.0,
            **asdict(self.target.passes),
            "updates": self.clock.update,
            "peak_memory_bytes": memory,
        }
