"""Resuming: the same seed gives the same run, however often it was interrupted, and nothing good is lost."""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from headstart.data import ImageSet
from headstart.errors import UserError, WeightsError
from headstart.models import build_model
from headstart.runs import files, store
from headstart.runs.checkpoint import load_state
from headstart.training.monitor import Monitor
from headstart.training.train import train
from tests.training.runs import BATCHES, EPOCHS, UPDATES, records, rows, tiny

RECIPES = {
    "fgsm-rs": tiny(),
    "fgsm-sdi": tiny("fgsm-sdi", average=0.9, epsilon_ramp=0.3, optimizer="adam", lr=0.003),
    "free": tiny("free", method_args={"replays": 2}),
    "muon": tiny(optimizer="muon", model="fast", model_args={"widths": [4, 8], "whiten": True}),
}


class Crash(Exception):
    """Stands for a process that ends without a chance to tidy up."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, digits: ImageSet) -> Callable[[str], Path]:
    """By method, the folder of a run from start to end."""

    @functools.cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp("uninterrupted") / method
        train(RECIPES[method], out, data=digits, progress=False)
        return out

    return run


def changed(method: str, **changes: Any) -> Any:
    return replace(RECIPES[method], **changes)


# -- reproducing and resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fgsm-rs", "fgsm-sdi"])
def test_same_seed_gives_the_same_run(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, method: str
) -> None:
    torch.rand(3)  # whatever happened to the global random state before
    train(RECIPES[method], tmp_path / "again", data=digits, progress=False)
    assert records(tmp_path / "again") == records(uninterrupted(method))
    assert [row["epoch"] for row in rows(tmp_path / "again")] == [1, 2, 3]


def test_another_seed_gives_another_run(tmp_path: Path, digits: ImageSet) -> None:
    losses = []
    for seed in (0, 1, 20_250_101):  # a date is a seed like any other
        run = train(tiny(seed=seed, epochs=1), tmp_path / str(seed), data=digits, progress=False)
        losses.append(run.metrics[0]["loss"])
    assert len(set(losses)) == 3


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("stop", [BATCHES + 2, BATCHES, UPDATES])
def test_resumed_equals_uninterrupted(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, method: str, stop: int
) -> None:
    """Stopped inside the second epoch, at the end of the first, or at the end of the run."""
    reference = uninterrupted(method)
    replays = json.loads((reference / "cost.json").read_text())["updates"] // UPDATES
    stopped = train(changed(method, max_steps=stop * replays), tmp_path / "run", data=digits, progress=False)
    assert stopped.cost["updates"] == stop * replays
    assert len(stopped.metrics) == stop // BATCHES
    torch.manual_seed(99)  # the new process has another random state
    train(RECIPES[method], tmp_path / "run", resume=True, data=digits, progress=False)
    assert records(tmp_path / "run") == records(reference)
    ours, theirs = (json.loads((run / "cost.json").read_text()) for run in (tmp_path / "run", reference))
    for counted in ("updates", "forwards", "input_gradients", "backwards"):
        assert ours[counted] == theirs[counted]


def crash_in_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """All updates are done and saved, the last epoch is not closed."""
    measure = Monitor.measure

    def crash(self: Monitor, *args: Any) -> dict[str, float]:
        crash.calls += 1  # type: ignore[attr-defined]
        if crash.calls == EPOCHS:  # type: ignore[attr-defined]
            raise Crash
        return measure(self, *args)

    crash.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(Monitor, "measure", crash)


def crash_before_first_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch's row is written, its checkpoint is not."""

    def crash(path: Path, state: dict[str, Any], previous: Path) -> None:
        raise Crash

    monkeypatch.setattr(store, "save_state", crash)


def crash_between_row_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch's row is written, its checkpoint is not."""
    save = store.save_state

    def crash(path: Path, state: dict[str, Any], previous: Path) -> None:
        if len(state["metrics"]) == 2:
            raise Crash
        save(path, state, previous)

    monkeypatch.setattr(store, "save_state", crash)


@pytest.mark.parametrize(
    ("crash", "every"),
    [
        (crash_in_validation, UPDATES),
        (crash_before_first_checkpoint, 0),
        (crash_between_row_and_checkpoint, 0),
        (crash_between_row_and_checkpoint, 3),
    ],
)
def test_resumes_after_a_crash(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, crash: Any, every: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash(patch)
        with pytest.raises(Crash):
            train(tiny(checkpoint_every=every), tmp_path / "run", data=digits, progress=False)
    train(tiny(checkpoint_every=every), tmp_path / "run", resume=True, data=digits, progress=False)
    assert records(tmp_path / "run") == records(uninterrupted("fgsm-rs"))


def test_runs_are_never_overwritten(tmp_path: Path, digits: ImageSet) -> None:
    out = tmp_path / "run"
    train(tiny(max_steps=BATCHES), out, data=digits, progress=False)
    before = records(out)
    with pytest.raises(UserError, match="exists; continue it with resume"):
        train(tiny(), out, data=digits, progress=False)
    with pytest.raises(UserError, match=r"lr is 0.06 but run .* was started with 0.05"):
        train(tiny(lr=0.06), out, resume=True, data=digits, progress=False)
    with pytest.raises(UserError, match="method is 'fgsm' but run"):
        train(tiny("fgsm"), out, resume=True, data=digits, progress=False)
    assert records(out) == before


def test_folders_that_are_no_run_are_left_alone(tmp_path: Path, digits: ImageSet) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="exists and is not a run"):
            train(tiny(), out, resume=True, data=digits, progress=False)
    with pytest.raises(UserError, match="cannot write to"):
        train(tiny(), tmp_path / "notes.txt" / "run", data=digits, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_checkpoint_of_another_network_is_refused(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(max_steps=1), tmp_path, data=digits, progress=False)
    wider = build_model("small", 10, 1, {"widths": [5, 8]})
    with pytest.raises(UserError, match=r"last\.pt belongs to another network or method"):
        train(tiny(), tmp_path, resume=True, data=digits, model=wider, progress=False)


def test_damaged_checkpoint_is_refused(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(max_steps=1), tmp_path, data=digits, progress=False)
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"last\.pt cannot be read: truncated"):
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    torch.save(print, last)
    with pytest.raises(UserError, match="pickle with code"):
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    torch.save({"network": {}}, last)
    with pytest.raises(UserError, match="not a training state"):
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny(max_steps=2 * BATCHES), tmp_path, data=digits, progress=False)
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    last.write_bytes(last.read_bytes()[:-2000])
    previous.rename(tmp_path / "aside.pt")
    with pytest.raises(UserError, match=r"last\.pt cannot be read"):  # nothing is computed anew in silence
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    (tmp_path / "aside.pt").rename(previous)
    train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    assert "last.pt cannot be read: truncated, or a pickle with code" in (said := caplog.text)
    assert f"going on from {previous}" in said
    assert records(tmp_path) == records(uninterrupted("fgsm-rs"))


def test_a_checkpoint_from_before_processor_time_was_counted_still_resumes(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet
) -> None:
    """What older checkpoints lack begins anew; a checkpoint that lacks anything else is refused."""
    train(tiny(max_steps=BATCHES), tmp_path, data=digits, progress=False)
    last = tmp_path / "checkpoints" / "last.pt"
    state = load_state(last)
    torch.save({name: part for name, part in state.items() if name != "optimizer"}, last)
    with pytest.raises(WeightsError, match=r"last\.pt belongs to another network or method: 'optimizer'"):
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    torch.save({name: part for name, part in state.items() if name != "processor"}, last)
    train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    assert records(tmp_path) == records(uninterrupted("fgsm-rs"))


def test_a_crash_between_the_two_renames_loses_nothing(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet
) -> None:
    """The last checkpoint is previous.pt already, the new one is not yet last.pt."""
    train(tiny(max_steps=2 * BATCHES), tmp_path, data=digits, progress=False)
    last = tmp_path / "checkpoints" / "last.pt"
    last.rename(last.with_name("previous.pt"))
    train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    assert records(tmp_path) == records(uninterrupted("fgsm-rs"))


# -- a full disk ------------------------------------------------------------------------------------------------------


def fail_to_save(patch: pytest.MonkeyPatch, where: str, succeed: int) -> None:
    """After ``succeed`` calls, writing fails for want of space: ``where`` says what, or which file."""
    calls = 0

    def failing(original: Any, error: Exception) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if "." in where and not any(where in str(argument) for argument in args):
                return original(*args, **kwargs)
            calls += 1
            if calls <= succeed:
                return original(*args, **kwargs)
            if where == "state":
                Path(args[1]).write_bytes(b"half of it")
            raise error

        return write

    full = OSError(errno.ENOSPC, "No space left on device")
    if where == "state":
        patch.setattr(torch, "save", failing(torch.save, full))
    elif where == "rename":
        patch.setattr(os, "replace", failing(os.replace, full))
    elif where in ("weights", "model-last.safetensors"):
        patch.setattr(files, "save_file", failing(files.save_file, SafetensorError("IoError(StorageFull)")))
    else:
        patch.setattr(Path, "open", failing(Path.open, full))


@pytest.mark.parametrize(
    ("where", "succeed", "kept"),
    [
        ("state", 1, BATCHES),
        ("rename", 3, BATCHES),  # config.yaml, the first epoch's best.safetensors and last.pt
        ("metrics.jsonl", 1, BATCHES),
        ("weights", 0, None),
        ("model-last.safetensors", 0, UPDATES),
    ],
)
def test_full_disk_leaves_the_last_checkpoint(
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, where: str, succeed: int, kept: int | None
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        fail_to_save(patch, where, succeed)
        with pytest.raises(UserError, match=r"cannot write.*untouched"):
            train(tiny(), out, data=digits, progress=False)
    last = out / "checkpoints" / "last.pt"
    assert (load_state(last)["clock"]["update"] if last.exists() else None) == kept
    assert not list(out.rglob("*.part"))
    train(tiny(), out, resume=True, data=digits, progress=False)
    assert records(out) == records(uninterrupted("fgsm-rs"))
