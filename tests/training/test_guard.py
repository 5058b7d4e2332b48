"""The guard: when it acts, what going back returns and what goes on, and that it saves a run which collapses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Clock
from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.models import build_model
from headstart.training.guard import NOISE, SETTLING, Guard, not_finite
from headstart.training.train import Trainer, train
from tests.training.runs import BATCHES, UPDATES, records, rows, tiny

ROBUST = {"n": 64, "clean": 0.9, "fgsm": 0.5, "pgd": 0.4}
SHAKEN = {"n": 64, "clean": 0.9, "fgsm": 0.6, "pgd": 0.25}
COLLAPSED = {"n": 64, "clean": 0.9, "fgsm": 0.8, "pgd": 0.1}
DEAD = {"n": 64, "clean": 0.1, "fgsm": 0.1, "pgd": 0.1}


def guard_of(network: nn.Module, **changes: Any) -> tuple[Guard, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    return Guard(tiny(on_collapse="rollback", **changes), {"network": network, "optimizer": optimizer}), optimizer


def descend(network: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def judge(guard: Guard, *measured: dict[str, float]) -> list[str | None]:
    return [guard.judge(m, Clock(update=k)) for k, m in enumerate(measured)]


def test_goes_back_to_the_last_sound_state() -> None:
    """Weights and momentum return, the learning rate does not; the state survives what happens afterwards."""
    network = nn.Linear(2, 1)
    guard, optimizer = guard_of(network)
    descend(network, optimizer)
    assert judge(guard, ROBUST) == [None]
    sound = network.weight.detach().clone()
    descend(network, optimizer)
    assert judge(guard, SHAKEN) == [None]  # no fault, but nothing to return to either
    optimizer.param_groups[0]["lr"] = 0.25
    for _ in range(2):
        descend(network, optimizer)
        assert guard.go_back(finite=True) is not None
        assert torch.equal(network.weight, sound)
        assert optimizer.param_groups[0]["lr"] == 0.25
        assert torch.equal(optimizer.state[network.weight]["momentum_buffer"], torch.ones(1, 2))


def test_says_what_is_wrong_and_gives_a_changed_training_time() -> None:
    guard, _ = guard_of(nn.Linear(2, 1))
    assert guard.go_back(finite=True) is None  # nothing to go back to
    fault = judge(guard, ROBUST, COLLAPSED)[1]
    assert fault == "catastrophic overfitting at update 1 in epoch 0: PGD accuracy 10.0%, FGSM accuracy 80.0%"
    assert "clean accuracy 10.0% after 90.0%" in str(judge(guard, DEAD)[0])
    assert guard.go_back(finite=True) == "uniform noise of 2 epsilon on the images"
    assert judge(guard, *[COLLAPSED] * SETTLING) == [None] * SETTLING
    assert judge(guard, COLLAPSED)[0] is not None
    assert guard.go_back(finite=True) == "uniform noise of 3 epsilon on the images"
    assert guard.go_back(finite=True) is None
    assert guard.noise == NOISE[-1]


def test_clips_gradients_once_numbers_were_not_finite() -> None:
    guard, _ = guard_of(nn.Linear(2, 1), clip_gradient=5.0)
    judge(guard, ROBUST)
    assert (guard.clip, guard.go_back(finite=False), guard.clip) == (5.0, "gradients clipped to norm 1", 1.0)
    assert guard.go_back(finite=False) is None
    assert guard.noise == 0


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_names_what_is_not_finite(bad: float) -> None:
    good = [torch.zeros(3), torch.zeros(2, dtype=torch.int8)]
    assert not_finite({"loss": good, "weights": good, "nothing": []}) is None
    assert not_finite({"loss": good, "weights": [*good, torch.tensor([0.0, bad])]}) == "weights"


# -- in the loop ------------------------------------------------------------------------------------------------------


def collapse_at(monkeypatch: pytest.MonkeyPatch, *updates: int) -> None:
    """The guard is told of a collapse after these updates, and otherwise that all is well."""
    original = Trainer._judge

    def told(self: Trainer, measured: dict[str, float]) -> None:
        original(self, COLLAPSED if self.clock.update in updates else ROBUST)

    monkeypatch.setattr(Trainer, "_judge", told)


@pytest.mark.parametrize("collapse", [2 * BATCHES, 2 * BATCHES + 2])
@pytest.mark.parametrize("method", ["fgsm-rs", "fgsm-sdi"])
def test_a_run_that_went_back_resumes_exactly(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, method: str, collapse: int
) -> None:
    """Collapses at the end of an epoch, and at a look inside the last; stopped before, at and after it."""
    collapse_at(monkeypatch, collapse)
    recipe = {"on_collapse": "rollback", "average": 0.9, "watch_every": 2}
    train(tiny(method, **recipe), tmp_path / "whole", data=digits, progress=False)
    (told,) = [row["rollbacks"] for row in rows(tmp_path / "whole") if "rollbacks" in row]
    assert [(r["update"], r["to_update"]) for r in told] == [(collapse, collapse - 2)]
    for stop in (collapse - 1, collapse, collapse + 1):
        out = tmp_path / str(stop)
        train(tiny(method, **recipe, max_steps=stop), out, data=digits, progress=False)
        torch.manual_seed(99)  # the new process has another random state
        train(tiny(method, **recipe), out, resume=True, data=digits, progress=False)
        assert records(out) == records(tmp_path / "whole")


def test_going_back_takes_no_further_updates_and_adds_noise(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse_at(monkeypatch, 2 * BATCHES)
    seen = []
    descend = Trainer._descend

    def spy(self: Trainer, step: Any, **part: Any) -> Tensor:
        seen.append(step.x)
        return descend(self, step, **part)

    monkeypatch.setattr(Trainer, "_descend", spy)
    result = train(tiny(on_collapse="rollback"), tmp_path, data=digits, progress=False)
    assert result.cost["updates"] == len(seen) == UPDATES
    levels = [torch.equal((x * 255).round() / 255, x) for x in seen]  # digits have whole grey levels, noise has not
    assert levels == [True] * 2 * BATCHES + [False] * BATCHES
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen)


def test_stops_when_no_measure_helps(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collapse_at(monkeypatch, *range(2 * BATCHES, 99))
    monkeypatch.setattr("headstart.training.guard.SETTLING", 0)
    result = train(tiny(on_collapse="rollback", epochs=9), tmp_path, data=digits, progress=False)
    assert len(result.metrics) == 2 + len(NOISE)
    assert "no safer way to go on" in capsys.readouterr().err


class Spoiled(nn.Module):
    """A network whose gradients are infinite at the backward passes of these numbers."""

    def __init__(self, *spoiled: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = build_model("small", 10, 1, {"widths": [4, 8]})
        self.spoiled, self.backwards = spoiled, 0
        next(self.parameters()).register_hook(self.spoil)

    def spoil(self, grad: Tensor) -> Tensor:
        self.backwards += 1
        return grad * torch.inf if self.backwards in self.spoiled else grad

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


def test_goes_back_from_weights_that_are_not_finite(tmp_path: Path, digits: ImageSet) -> None:
    """Once; the second time the run stops, with the last checkpoint intact."""
    recipe = tiny(on_collapse="rollback", checkpoint_every=1, watch_every=1)
    result = train(recipe, tmp_path / "once", data=digits, model=Spoiled(BATCHES + 2), progress=False)
    (told,) = [row["rollbacks"] for row in result.metrics if "rollbacks" in row]
    assert told[0]["fault"].startswith(f"the weights became infinite or NaN before update {BATCHES + 2}")
    assert result.cost["updates"] == UPDATES
    assert all(t.isfinite().all() for t in result.model.state_dict().values())
    with pytest.raises(UserError, match=r"the weights became infinite or NaN.*the last good checkpoint is"):
        train(recipe, tmp_path / "twice", data=digits, model=Spoiled(BATCHES + 2, BATCHES + 4), progress=False)


@pytest.mark.slow
def test_saves_plain_fgsm_from_collapse(tmp_path: Path) -> None:
    """Digits at epsilon 0.25: plain FGSM collapses. With rollback the final PGD accuracy is what it was before."""
    from headstart.api import train as by_name

    result = by_name("digits/fgsm", tmp_path, epochs=16, on_collapse="rollback", progress=False)
    epochs = {row["update"]: row for row in result.metrics}
    (told,) = [row["rollbacks"] for row in result.metrics if "rollbacks" in row]
    collapsed, sound, final = epochs[told[0]["update"]], epochs[told[0]["to_update"]], result.metrics[-1]
    assert collapsed["val"]["pgd"] < 0.5 * sound["val"]["pgd"]
    assert final["epsilon"] > sound["epsilon"]  # a stronger attack than that before the collapse, as epsilon still rose
    assert final["val"]["pgd"] > 0.85 * sound["val"]["pgd"]
    assert not any(row["collapsed"] for row in result.metrics if row["update"] > told[0]["update"])
