"""The watch over a run: it goes back or stops when the training breaks, and nothing good is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from headstart.core import Clock, Step
from headstart.data import ImageSet
from headstart.errors import Diverged
from headstart.models import build_model
from headstart.runs.checkpoint import load_state
from headstart.training.guard import NOISE
from headstart.training.health import Health
from headstart.training.monitor import Monitor
from headstart.training.train import train
from headstart.training.update import Updater
from tests.training.runs import BATCHES, EPOCHS, UPDATES, records, rows, tiny
from tests.training.test_guard import COLLAPSED, ROBUST

# -- a collapse -------------------------------------------------------------------------------------------------------


def collapse_at(monkeypatch: pytest.MonkeyPatch, *updates: int) -> None:
    """The guard is told of a collapse after these updates, and otherwise that all is well."""
    original = Health.judge

    def told(self: Health, measured: dict[str, float], clock: Clock) -> None:
        original(self, COLLAPSED if clock.update in updates else ROBUST, clock)

    monkeypatch.setattr(Health, "judge", told)


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


def test_measurements_inside_epochs_change_nothing_and_resume(tmp_path: Path, digits: ImageSet) -> None:
    """Every second batch but the last of an epoch; a run that was stopped between two of them has each once."""
    recipe: dict[str, Any] = {"curve_every": 2, "checkpoint_every": 1}
    train(tiny(**recipe), tmp_path / "whole", data=digits, progress=False)
    train(tiny(checkpoint_every=1), tmp_path / "plain", data=digits, progress=False)
    measured = [row["inside"] for row in rows(tmp_path / "whole")]
    assert [[point["epoch"] for point in points] for points in measured] == [[0.5], [1.5], [2.5]]
    assert all(set(points[0]) == {"epoch", "n", "clean", "fgsm", "pgd"} for points in measured)
    plain = [{key: value for key, value in row.items() if key != "inside"} for row in rows(tmp_path / "whole")]
    assert plain == rows(tmp_path / "plain")
    train(tiny(**recipe, max_steps=BATCHES + 3), tmp_path / "cut", data=digits, progress=False)
    train(tiny(**recipe), tmp_path / "cut", resume=True, data=digits, progress=False)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_going_back_takes_no_further_updates_and_adds_noise(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse_at(monkeypatch, 2 * BATCHES)
    seen = []
    descend = Updater.descend

    def spy(self: Updater, step: Step, **part: Any) -> Tensor:
        seen.append(step.x)
        return descend(self, step, **part)

    monkeypatch.setattr(Updater, "descend", spy)
    result = train(tiny(on_collapse="rollback"), tmp_path, data=digits, progress=False)
    assert result.cost["updates"] == len(seen) == UPDATES
    levels = [torch.equal((x * 255).round() / 255, x) for x in seen]  # digits have whole grey levels, noise has not
    assert levels == [True] * 2 * BATCHES + [False] * BATCHES
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen)


def test_stops_when_no_measure_helps(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collapse_at(monkeypatch, *range(2 * BATCHES, 99))
    monkeypatch.setattr("headstart.training.guard.SETTLING", 0)
    result = train(tiny(on_collapse="rollback", epochs=9), tmp_path, data=digits, progress=False)
    assert len(result.metrics) == 2 + len(NOISE)
    assert "no safer way to go on" in caplog.text


@pytest.mark.parametrize(("reaction", "epochs"), [("stop", 2), ("warn", EPOCHS)])
def test_reacts_to_collapse(
    tmp_path: Path,
    digits: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reaction: str,
    epochs: int,
) -> None:
    """The second epoch collapses."""
    robust, broken = {"clean": 0.9, "fgsm": 0.5, "pgd": 0.4}, {"clean": 0.9, "fgsm": 0.8, "pgd": 0.1}
    results = iter([robust, broken, broken])
    monkeypatch.setattr(Monitor, "measure", lambda *args: {"n": 64, **next(results)})
    result = train(tiny(on_collapse=reaction), tmp_path, data=digits, progress=False)
    assert [row["collapsed"] for row in rows(tmp_path)] == [False, True, True][:epochs]
    assert result.cost["updates"] == epochs * BATCHES
    said = caplog.text
    assert said.count("catastrophic overfitting") == 1
    assert (
        f"catastrophic overfitting at update {2 * BATCHES} in epoch 2: PGD accuracy 10.0%, FGSM accuracy 80.0%" in said
    )
    with safe_open(tmp_path / "model.safetensors", framework="pt") as kept:
        assert kept.metadata()["epoch"] == "1"  # the last one before the collapse


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


# -- numbers that are not finite --------------------------------------------------------------------------------------


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
    with pytest.raises(Diverged, match=r"the weights became infinite or NaN.*the last good checkpoint is"):
        train(recipe, tmp_path / "twice", data=digits, model=Spoiled(BATCHES + 2, BATCHES + 4), progress=False)


class Poisoned(nn.Module):
    """A network whose ``after``-th weight update goes wrong: NaN logits, or infinite gradients."""

    def __init__(self, after: int, what: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = build_model("small", 10, 1, {"widths": [4, 8]})
        self.after, self.what, self.updates = after, what, 0
        if what == "gradients":
            next(self.parameters()).register_hook(self.spoil)

    def spoil(self, grad: Tensor) -> Tensor:
        self.updates += 1
        return grad * torch.inf if self.updates == self.after else grad

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if self.what == "logits" and self.training and torch.is_grad_enabled() and not x.requires_grad:
            self.updates += 1
            if self.updates == self.after:
                return logits * torch.nan
        return logits


@pytest.mark.parametrize(
    ("what", "said"), [("logits", "the loss became infinite or NaN"), ("gradients", "the weights became")]
)
@pytest.mark.parametrize("after", [6, UPDATES])
def test_stops_when_training_is_no_longer_finite(
    tmp_path: Path, digits: ImageSet, what: str, said: str, after: int
) -> None:
    """The weights of update 6 are those that a checkpoint, of the last those that validation would see next."""
    recipe = tiny(checkpoint_every=3 if after == 6 else 0)
    with pytest.raises(Diverged) as stopped:
        train(recipe, tmp_path, data=digits, model=Poisoned(after, what), progress=False)
    last = tmp_path / "checkpoints" / "last.pt"
    message = str(stopped.value)
    assert message.startswith(said)
    assert f"the last good checkpoint is {last}" in message
    assert "\n" not in message
    state = load_state(last)
    assert state["clock"]["update"] == (BATCHES if after == 6 else UPDATES - BATCHES)
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
    with safe_open(tmp_path / "checkpoints" / "best.safetensors", framework="pt") as best:
        assert all(best.get_tensor(name).isfinite().all() for name in best.keys())  # noqa: SIM118
    broken = tmp_path / "broken-batch.safetensors"
    assert broken.exists() == (what == "logits")
    if what == "logits":
        assert str(broken) in message
        with safe_open(broken, framework="pt") as kept:
            assert kept.metadata()["update"] == str(after - 1)  # counted from 0
            assert kept.get_tensor("x").shape[1:] == digits.shape
    healthy = train(recipe, tmp_path, resume=True, data=digits, model=Poisoned(0, "nothing"), progress=False)
    assert healthy.cost["updates"] == UPDATES


def test_diverging_at_once_says_that_there_is_no_checkpoint(tmp_path: Path, digits: ImageSet) -> None:
    with pytest.raises(Diverged, match=r"no checkpoint exists yet.*lower lr, or clip_gradient 1"):
        train(tiny(lr=1e30, schedule="constant"), tmp_path, data=digits, progress=False)
