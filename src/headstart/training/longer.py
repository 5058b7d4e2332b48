"""A run that goes on to another number of epochs than it was started with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.core import Clock
from headstart.errors import SettingError
from headstart.training.learner import Learner
from headstart.training.optim import at_update
from headstart.training.state import Stateful, restore

log = logging.getLogger(__name__)


def restore_longer(learner: Learner, parts: Mapping[str, Stateful], state: Mapping[str, Any], source: Path) -> Clock:
    """Restore the state of a run of another number of epochs than the learner's; its clock in a run of the new length.

    The schedule is that of the new length: the rate goes on where a run of so many epochs has it by then, which is
    higher than where a finished run has ended, and falls from there to the schedule's end.

    Args:
        learner: of the new length, at its start.
        source: where the state is from, for messages.

    Raises:
        SettingError: the run has more epochs behind it.
        WeightsError: see ``restore``.
    """
    clock, epochs, optimizer = Clock(**state["clock"]), learner.recipe.epochs, learner.optimizer
    if learner.updates < clock.update:
        raise SettingError(f"epochs is {epochs}, but the run has {clock.epoch} behind it; give more")
    with at_update(learner.schedule, optimizer, clock.update):
        restore({name: part for name, part in parts.items() if name != "schedule"}, state, source)
        before = optimizer.param_groups[0]["lr"]
    log.info(
        "from %d epochs to %d: the rate was %.2g and goes on at %.2g, where a run of %d epochs has it after %d, along "
        "that schedule to its end",
        clock.epochs, epochs, before, optimizer.param_groups[0]["lr"], epochs, clock.epoch,
    )  # fmt: skip
    return replace(clock, updates=learner.updates, epochs=epochs)
