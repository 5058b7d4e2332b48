"""The watch over a run: numbers that stay finite, a robustness that does not collapse, and what is done if not."""

from __future__ import annotations

import logging
from typing import Any

from headstart.core import Clock, distributed
from headstart.core.threat import ThreatModel
from headstart.data import Loader
from headstart.errors import Diverged
from headstart.recipes.recipe import Recipe
from headstart.runs.files import save_weights
from headstart.runs.folder import RunFolder
from headstart.training.guard import Guard, not_finite
from headstart.training.learner import Learner
from headstart.training.meters import Meters, Stopwatch
from headstart.training.monitor import Monitor

log = logging.getLogger(__name__)

WATCHED = 256  # validation images on which the live network is watched while its average is being selected
GLANCE = 64  # at most so many for a look inside an epoch, and no more than a batch has: about the cost of two updates


class Health:
    """Looks after a run, and reacts to what it finds as the recipe says.

    Attributes:
        guard: judges what was measured, and keeps the state to go back to.
        halted: whether the training ends here.
        rollbacks: how often and why the run went back since they were last written down.
        inside: what was measured of the live network between batches since then.
    """

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        monitor: Monitor,
        meters: Meters,
        stopwatch: Stopwatch,
        loader: Loader,
        folder: RunFolder,
    ) -> None:
        self.learner, self.monitor, self.meters, self.stopwatch = learner, monitor, meters, stopwatch
        self.loader, self.folder = loader, folder
        self.watch_every, self.curve_every = recipe.watch_every, recipe.curve_every
        self.guard = Guard(recipe, learner.learned, adversarial=learner.method.adversarial)
        self.glance = min(GLANCE, recipe.batch_size)
        self.halted = False
        self.rollbacks: list[dict[str, Any]] = []
        self.inside: list[dict[str, float]] = []

    def between_batches(self, clock: Clock, threat: ThreatModel) -> None:
        """Look for a collapse, measure: whatever of it is due inside an epoch."""
        if clock.batch >= self.loader.batches:
            return
        if self.watch_every and clock.batch % self.watch_every == 0:
            self.look(clock, threat)
        if self.curve_every and clock.batch % self.curve_every == 0:
            with self.stopwatch.counting("validation"):
                measured = self.monitor.measure(self.learner.network, threat, WATCHED)
            self.inside.append({"epoch": clock.epoch + clock.batch / self.loader.batches, **measured})

    def told(self) -> dict[str, Any]:
        """What an epoch's row has to say of all this; it is said once."""
        found = {"rollbacks": self.rollbacks, "inside": self.inside}
        self.rollbacks, self.inside = [], []
        return {key: rows for key, rows in found.items() if rows}

    def look(self, clock: Clock, threat: ThreatModel) -> None:
        """Inside an epoch: is everything finite, and, where the recipe reacts to it, is there a collapse?"""
        with self.stopwatch.counting("guard"):
            self.check_finite(clock)
            if self.guard.reaction == "warn":
                return
            measured = self.monitor.measure(self.learner.network, threat, self.glance)
            if self.guard.fault(measured):  # a few images may mislead
                measured = self.monitor.measure(self.learner.network, threat, WATCHED)
            self.judge(measured, clock)

    def judge(self, measured: dict[str, float], clock: Clock) -> None:
        """React to what was measured of the live network."""
        with self.stopwatch.counting("guard"):
            fault = self.guard.judge(measured, clock)
            if fault is None:
                return
            if self.guard.reaction == "rollback":
                self.halted = not self._go_back(fault, clock, finite=True)
            else:
                log.warning("%s (%s)", fault, self.guard.reaction)
                self.halted = self.guard.reaction == "stop"

    def check_finite(self, clock: Clock) -> None:
        """Before anything is written over good files: go back if loss, network or method are infinite or NaN.

        Raises:
            Diverged: they are, and the recipe does not go back, or has done so before.
        """
        network, method = self.learner.network, self.learner.method
        what = not_finite(
            {
                "loss": [self.meters.broken()],
                "weights": [*network.parameters(), *network.buffers()],
                "method's state": [*method.parameters(), *method.buffers()],
            }
        )
        if what is None:
            return
        fault = f"the {what} became infinite or NaN before update {clock.update}"
        batch = self._keep_broken_batch()
        if self.guard.reaction == "rollback" and self._go_back(fault + batch, clock, finite=False):
            return
        last = self.folder.last
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint exists yet"
        raise Diverged(f"{fault}; {kept}{batch}. Try a lower lr, or clip_gradient 1")

    def take_measures(self) -> None:
        """Let the updates take the care that the guard asks for by now."""
        self.learner.make_updater(clip=self.guard.clip, noise=self.guard.noise)

    def _go_back(self, fault: str, clock: Clock, finite: bool) -> bool:
        """Return to the last sound state and go on with more care; False if there is no such state or no such way."""
        measure = self.guard.go_back(finite)
        if measure is None:
            log.warning("%s; nothing to go back to, or no safer way to go on", fault)
            return False
        update = self.guard.sound_update
        log.warning("%s; back to the weights of update %d, %s from here on", fault, update, measure)
        self.rollbacks.append({"update": clock.update, "to_update": update, "fault": fault, "measure": measure})
        self.meters.forget_broken()
        self.take_measures()
        return True

    def _keep_broken_batch(self) -> str:
        """Write the batch whose loss was not finite first; the order of an epoch follows from its number."""
        update = int(self.meters.first_broken)
        if update < 0 or distributed.rank() > 0:
            return ""
        epoch, batch = divmod(update // self.learner.method.replays, self.loader.batches)
        cut = next(self.loader.epoch(epoch, start=batch))
        path = self.folder.broken_batch
        save_weights(path, {"x": cut.x, "y": cut.y, "index": cut.index}, {"update": str(update), "epoch": str(epoch)})
        return f", the batch of update {update} is in {path}"
