"""A run that goes on to more epochs: its rates are those of a run that was planned so long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headstart.data import ImageSet
from headstart.errors import SettingError
from headstart.training.train import train
from tests.training.runs import BATCHES, records, rows, tiny

pytestmark = pytest.mark.slow

SCHEDULES: dict[str, dict[str, Any]] = {
    "one-cycle with momentum": {"schedule": "one-cycle", "cycle_momentum": True},
    "one-cycle by epoch": {"schedule": "one-cycle", "schedule_by": "epoch"},
    "triangular, adam": {"schedule": "triangular", "optimizer": "adam", "average": 0.9},
    "multi-step": {"schedule": "multi-step", "milestones": [1]},
}


@pytest.mark.parametrize("fields", SCHEDULES.values(), ids=SCHEDULES)
def test_the_rate_is_that_of_the_longer_run(tmp_path: Path, digits: ImageSet, fields: dict[str, Any]) -> None:
    """Two epochs and then four, and four at once: the same rates from the third on, and a run that goes on."""
    train(tiny(epochs=2, **fields), tmp_path / "run", data=digits, progress=False)
    first = rows(tmp_path / "run")
    train(tiny(epochs=4, **fields), tmp_path / "run", data=digits, progress=False, resume=True, longer=True)
    train(tiny(epochs=4, **fields), tmp_path / "planned", data=digits, progress=False)
    longer, planned = rows(tmp_path / "run"), rows(tmp_path / "planned")
    assert longer[:2] == first
    assert [row["update"] for row in longer] == [BATCHES * epoch for epoch in (1, 2, 3, 4)]
    assert [row["lr"] for row in longer[2:]] == pytest.approx([row["lr"] for row in planned[2:]], rel=1e-12)


def test_an_interrupted_extension_ends_as_one_that_was_not(tmp_path: Path, digits: ImageSet) -> None:
    for name, stops in (("once", (None,)), ("twice", (13, None))):
        train(tiny(epochs=2), tmp_path / name, data=digits, progress=False)
        for stop in stops:
            recipe = tiny(epochs=4, max_steps=stop)
            train(recipe, tmp_path / name, data=digits, progress=False, resume=True, longer=True)
    assert records(tmp_path / "once") == records(tmp_path / "twice")


def test_epochs_change_only_on_purpose(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(epochs=2), tmp_path, data=digits, progress=False)
    with pytest.raises(SettingError, match="epochs is 4 but run"):
        train(tiny(epochs=4), tmp_path, data=digits, progress=False, resume=True)
    with pytest.raises(SettingError, match="epochs is 1, but the run has 2 behind it"):
        train(tiny(epochs=1), tmp_path, data=digits, progress=False, resume=True, longer=True)
