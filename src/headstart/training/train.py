"""The one training loop."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from headstart.attacks.collapse import collapsed
from headstart.core import Clock, distributed
from headstart.core.memory import reuse_memory
from headstart.core.threat import ThreatModel
from headstart.data import Batch, Found, ImageSet, TrainingSet
from headstart.errors import Interrupted, SettingError
from headstart.recipes.recipe import Recipe
from headstart.runs.checkpoint import random_state, set_random_state
from headstart.runs.launch import StopSignal, determinism, explained, launched, make_fabric
from headstart.runs.loggers import Journal
from headstart.runs.store import RunStore
from headstart.training.feed import announce, batches, load_parts
from headstart.training.health import Health
from headstart.training.learner import Learner
from headstart.training.longer import restore_longer
from headstart.training.meters import Meters, Stopwatch
from headstart.training.monitor import Monitor
from headstart.training.progress import TrainingProgress
from headstart.training.start import network_for
from headstart.training.state import Attribute, Stateful, restore, state_of
from headstart.training.summary import cost_of, origin_of, record_of


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished run: its folder, the network of model.safetensors, the rows of metrics.jsonl and its cost."""

    out: Path
    model: nn.Module
    metrics: list[dict[str, Any]]
    cost: dict[str, float]

    def __repr__(self) -> str:
        return f"<TrainResult {self.out}: {type(self.model).__name__}, {self.cost['updates']:.0f} updates>"


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    longer: bool = False,
    data: Found | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train by a recipe into the folder ``out``, or go on with what is there.

    Args:
        longer: what is there may have had another number of epochs; see ``restore_longer``.
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
    folder.check(recipe, resume, longer=longer)
    with determinism(recipe.deterministic), explained(recipe, folder.path):
        fabric = make_fabric(recipe, folder.path)
        reuse_memory(fabric.device)
        torch.manual_seed(recipe.seed)
        train_set, val_set = load_parts(recipe, data)
        state = folder.load() if resume else None
        recipe, network = network_for(recipe, model, train_set, val_set, resumed=state is not None)
        trainer = Trainer(recipe, folder, fabric, network, train_set, val_set)
        if progress:
            announce(recipe, train_set, val_set)
        trainer.begin(state)
        return trainer.run(progress)


class Trainer:
    """A run: what learns, what looks after it, and the loop."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunStore,
        fabric: Fabric,
        network: nn.Module,
        train_set: TrainingSet,
        val_set: ImageSet,
    ) -> None:
        self.recipe, self.folder, self.fabric, self.device = recipe, folder, fabric, fabric.device
        self.classes = train_set.classes
        self.loader = batches(train_set, recipe, self.device, fabric.global_rank, fabric.world_size)
        if self.loader.batches == 0:
            raise SettingError(f"batch_size {recipe.batch_size} exceeds the {self.loader.samples} training images")
        self.learner = Learner(recipe, fabric, network, train_set, self.loader)
        self.clock = Clock(updates=self.learner.updates, epochs=recipe.epochs)
        self.monitor, self.meters = Monitor(val_set, self.device), Meters(self.device)
        self.stopwatch, self.stop = Stopwatch(self.device), StopSignal()
        self.health = Health(recipe, self.learner, self.monitor, self.meters, self.stopwatch, self.loader, folder)
        self.journal = Journal(fabric)
        self.metrics: list[dict[str, Any]] = []
        self.best = -1.0
        torch.manual_seed(recipe.seed + 1 + fabric.global_rank)  # random starts differ between processes

    # -- the loop ----------------------------------------------------------------------------------------------

    def begin(self, state: dict[str, Any] | None) -> None:
        """Start the run in its folder, or go on from a state."""
        if state is None:
            self.folder.begin(self.recipe)
        else:
            self.load_state_dict(state)
            self.folder.describe(self.recipe)
        distributed.barrier()  # nobody writes a new checkpoint while somebody still reads the old one

    def run(self, progress: bool = True) -> TrainResult:
        """``fit``, written into the log; what fails before its first checkpoint leaves no run behind."""
        try:
            self.journal.start(self.recipe, self.metrics)
            return self.fit(progress)
        except BaseException:
            self.journal.close("failed")
            self.folder.discard()
            raise

    def fit(self, progress: bool = True) -> TrainResult:
        """Train to the end of the recipe, or to max_steps."""
        end = min(self.clock.updates, self.recipe.max_steps or self.clock.updates)
        show = progress and self.fabric.is_global_zero
        bar = TrainingProgress(end, self.recipe.batch_size, self.clock.update, show)
        # Graphs are recorded off the default stream, and must follow the eager updates on their own.
        stream = torch.cuda.stream(torch.cuda.Stream(self.device)) if self.learner.graphed else nullcontext()  # type: ignore[no-untyped-call]
        with self.stop.listening(), stream, bar:
            while self.clock.update < end or self.clock.batch == self.loader.batches:  # the latter: not yet closed
                self._train_epoch(end, bar)
                if self.clock.batch:  # stopped inside the epoch
                    break
                bar.validated(self._close_epoch())
                if self.health.halted:
                    break
        return self._finish()

    def _train_epoch(self, end: int, bar: TrainingProgress) -> None:
        """From where the clock stands to the end of the epoch, or of the run."""
        replays = self.learner.method.replays
        with self.stopwatch.counting("training"):
            for batch in self.loader.epoch(self.clock.epoch, start=self.clock.batch):
                for _ in range(replays):
                    self.update(batch)
                self.clock = replace(self.clock, batch=self.clock.batch + 1)
                bar.advance(self.clock, replays)
                self._between_batches()
                if self.health.halted or self.clock.update >= end:
                    break
        if self.clock.batch >= self.loader.batches:
            self.clock = replace(self.clock, epoch=self.clock.epoch + 1, batch=0)

    def update(self, batch: Batch) -> None:
        """One weight update. Nothing in here waits for the device."""
        for loss, step in self.learner.update(batch, self.clock):
            assert step.logits is not None
            self.meters.add(loss, step.logits, step.y, self.clock.update)
        self.clock = replace(self.clock, update=self.clock.update + 1)

    def _between_batches(self) -> None:
        """Look after the run, save, stop: whatever of it is due."""
        every = self.recipe.checkpoint_every
        self.health.between_batches(self.clock, self.learner.threat_at(self.clock))
        stop = self.stop.agreed()
        if stop or (every and self.clock.update % every < self.learner.method.replays):
            with self.stopwatch.counting("saving"):
                self.save()
        if stop:
            raise Interrupted

    # -- the end of an epoch -----------------------------------------------------------------------------------

    def _close_epoch(self) -> dict[str, Any]:
        """Read the meters, validate, keep the best, write the row and the checkpoint."""
        epoch = self.clock.epoch
        self.health.check_finite(self.clock)
        row: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "update": self.clock.update, **self.meters.read()}
        self.meters.reset()
        self.learner.agree()
        threat = self.learner.threat_at(self.clock)
        row |= {"lr": self.learner.schedule.get_last_lr()[0], "epsilon": threat.epsilon, "collapsed": False}
        if epoch % self.recipe.eval_every == 0 or self.clock.update == self.clock.updates:
            self._validate(row, threat)
        row |= self.health.told()
        self.metrics.append(row)
        self.folder.add_row(row)
        self.journal.add(row)
        self.save()
        if self.recipe.keep:
            self.folder.keep_epoch(self.state_dict(), epoch, self.recipe.keep)
        return row

    def _validate(self, row: dict[str, Any], threat: ThreatModel) -> None:
        """Measure into the row, keep the weights if they are the best so far, and react to a collapse.

        The live network is kept where it validates better than its average, which lags behind while the rate is high.
        """
        learner, adversarial = self.learner, self.learner.method.adversarial
        with self.stopwatch.counting("validation"):
            row["val"] = live = self.monitor.validate(learner.selected, threat)
            if learner.average:
                row["live"] = live = self.monitor.validate(learner.network, threat)
        row["collapsed"] = adversarial and collapsed(live)
        kind = "pgd" if adversarial else "clean"
        lags = live[kind] > row["val"][kind]
        network, measured = (learner.network, live) if lags else (learner.selected, row["val"])
        if threat == learner.threat and measured[kind] >= self.best:
            self.best = measured[kind]
            self.folder.save_best(network, self._origin({**row, "val": measured}))
        self.health.judge(live, self.clock)

    def _finish(self) -> TrainResult:
        """Write what is left of the run when its training ends; the network gets the selected weights."""
        self.save()
        row = self.metrics[-1] if self.metrics else {"epoch": 0}
        cost = cost_of(self.learner, self.clock, self.stopwatch)
        validated = self.folder.best.exists()
        record = record_of(cost, self.recipe, self.device, validated=validated)
        network = self.learner.selected
        self.folder.finish(network, self._origin(row), record)
        self.journal.close("success")
        if validated:
            network.load_state_dict(load_file(self.folder.best))
        return TrainResult(self.folder.path, network, self.metrics, cost)

    def _origin(self, row: dict[str, Any]) -> dict[str, str]:
        return origin_of(self.learner, self.classes, self.loader.shape[0], row)

    # -- what is kept ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoints/last.pt, never with a loss or weights that are infinite or NaN."""
        self.health.check_finite(self.clock)
        self.folder.save(self.state_dict())

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds, by name; clock, passes and random state come on top."""
        return {
            **self.learner.learned,
            "schedule": self.learner.schedule,
            "guard": self.health.guard,
            "rollbacks": Attribute(self.health, "rollbacks"),
            "inside": Attribute(self.health, "inside"),
            "meters": self.meters,
            "metrics": Attribute(self, "metrics"),
            "best": Attribute(self, "best"),
            "seconds": Attribute(self.stopwatch, "seconds"),
            "processor": Attribute(self.stopwatch, "processor"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to end in the same weights."""
        return {
            "average": {},  # where there is none
            **state_of(self.parts),
            "clock": asdict(self.clock),
            "passes": asdict(self.learner.target.passes),
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            WeightsError: the state belongs to another network or method.
        """
        clock = Clock(**state["clock"])
        if clock.epochs == self.recipe.epochs:
            restore(self.parts, state, self.folder.last)
        else:
            clock = restore_longer(self.learner, self.parts, state, self.folder.last)
        self.clock = replace(clock, batch=min(clock.batch, self.loader.batches))  # on other processes an epoch may
        vars(self.learner.target.passes).update(state["passes"])
        self.health.take_measures()
        if not set_random_state(state["random"], self.device):  # taken on other processes
            place = distributed.rank() + self.clock.update * distributed.world_size()
            torch.manual_seed((self.recipe.seed + 1 + place) % 2**32)
        self.folder.write_rows(self.metrics)
