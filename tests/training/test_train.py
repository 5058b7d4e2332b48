"""The training loop: the same seed gives the same run, however often it was interrupted, and nothing good is lost."""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headstart.attacks.collapse import collapsed
from headstart.core import Step
from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.models import build_model
from headstart.runs import files, store
from headstart.runs.checkpoint import load_state
from headstart.runs.environment import not_deterministic
from headstart.training import train as engine
from headstart.training.monitor import Monitor
from headstart.training.train import Trainer, train
from tests.training.runs import BATCHES, EPOCHS, UPDATES, records, rows, tiny

RECIPES = {
    "fgsm-rs": tiny(),
    "fgsm-sdi": tiny("fgsm-sdi", average=0.9, epsilon_ramp=0.3, optimizer="adam", lr=0.003),
    "free": tiny("free", method_args={"replays": 2}),
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
    return engine.replace(RECIPES[method], **changes)


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
    with pytest.raises(UserError, match="exists; continue it with --resume"):
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
    uninterrupted: Callable[[str], Path], tmp_path: Path, digits: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(max_steps=2 * BATCHES), tmp_path, data=digits, progress=False)
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    last.write_bytes(last.read_bytes()[:-2000])
    previous.rename(tmp_path / "aside.pt")
    with pytest.raises(UserError, match=r"last\.pt cannot be read"):  # nothing is computed anew in silence
        train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    (tmp_path / "aside.pt").rename(previous)
    train(tiny(), tmp_path, resume=True, data=digits, progress=False)
    assert "last.pt cannot be read: truncated, or a pickle with code" in (said := capsys.readouterr().err)
    assert f"going on from {previous}" in said
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


def test_the_result_holds_the_selected_weights(tmp_path: Path, digits: ImageSet) -> None:
    result = train(tiny(), tmp_path, data=digits, progress=False)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        for name, tensor in result.model.state_dict().items():
            assert torch.equal(tensor, stored.get_tensor(name)), name


# -- losses and weights that are not finite ---------------------------------------------------------------------------


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
    with pytest.raises(UserError) as stopped:
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
    with pytest.raises(UserError, match=r"no checkpoint exists yet.*lower --lr"):
        train(tiny(lr=1e30, schedule="constant"), tmp_path, data=digits, progress=False)


# -- gradient accumulation, determinism ------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network without batch-norm, whose samples therefore do not see each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.conv(x).relu().flatten(1))
        return logits


@pytest.mark.parametrize("parts", [2, 16])
def test_accumulated_parts_make_the_update_of_the_whole_batch(tmp_path: Path, digits: ImageSet, parts: int) -> None:
    """Also on the last batch of an epoch: its 44 images make 22 and 22, or fourteen threes and a two."""
    recipe = tiny("fgsm", lr=0.5)
    whole = train(recipe, tmp_path / "whole", data=digits, model=Plain(), progress=False)
    accumulated = engine.replace(recipe, accumulate=parts)
    split = train(accumulated, tmp_path / "split", data=digits, model=Plain(), progress=False)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert split.cost["updates"] == UPDATES
    assert split.cost["backwards"] == sum(-(-n // -(-n // parts)) for n in (64, 64, 64, 44)) * EPOCHS
    assert [row["loss"] for row in split.metrics] == pytest.approx([row["loss"] for row in whole.metrics], rel=1e-5)


def test_resumes_with_accumulation(tmp_path: Path, digits: ImageSet) -> None:
    recipe = tiny("fgsm-sdi", accumulate=4)
    train(recipe, tmp_path / "whole", data=digits, progress=False)
    train(engine.replace(recipe, max_steps=BATCHES + 1), tmp_path / "run", data=digits, progress=False)
    train(recipe, tmp_path / "run", resume=True, data=digits, progress=False)
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_accumulation_that_cannot_be_is_refused(tmp_path: Path, digits: ImageSet) -> None:
    with pytest.raises(UserError, match="accumulate is 3; it must divide the 64 samples"):
        tiny(accumulate=3)
    with pytest.raises(UserError, match="method free carries its perturbation"):
        train(tiny("free", accumulate=2), tmp_path, data=digits, progress=False)


def test_deterministic_algorithms_only_while_training(tmp_path: Path, digits: ImageSet) -> None:
    seen = []

    class Spy(Plain):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(x)

    for wanted in (True, False):
        seen.clear()
        train(tiny(deterministic=wanted), tmp_path / str(wanted), data=digits, model=Spy(), progress=False)
        assert set(seen) == {wanted}
        assert not torch.are_deterministic_algorithms_enabled()
        assert json.loads((tmp_path / str(wanted) / "cost.json").read_text())["not_deterministic"] == []


def test_what_a_gpu_may_do_otherwise_is_recorded() -> None:
    assert len(not_deterministic(torch.device("cuda"), deterministic=False)) == 2
    assert not_deterministic(torch.device("cuda"), deterministic=True) == []


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


# -- the monitor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [
        (0.9, 0.0, True),
        (0.9, 0.29, True),
        (0.9, 0.31, False),  # a third of the accuracy is left
        (0.14, 0.0, False),  # too few points to tell it from a weak network
        (0.16, 0.0, True),
        (0.0, 0.0, False),
        (0.4, 0.45, False),
    ],
)
def test_collapsed(fgsm: float, pgd: float, expected: bool) -> None:
    assert collapsed({"clean": 0.95, "fgsm": fgsm, "pgd": pgd}) is expected


@pytest.mark.parametrize(("reaction", "epochs"), [("stop", 2), ("warn", EPOCHS)])
def test_reacts_to_collapse(
    tmp_path: Path,
    digits: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    said = capsys.readouterr().err
    assert said.count("catastrophic overfitting") == 1
    assert (
        f"catastrophic overfitting at update {2 * BATCHES} in epoch 2: PGD accuracy 10.0%, FGSM accuracy 80.0%" in said
    )
    with safe_open(tmp_path / "model.safetensors", framework="pt") as kept:
        assert kept.metadata()["epoch"] == "1"  # the last one before the collapse


def test_monitor_measures_what_the_attacks_do(digits: ImageSet) -> None:
    """A network that answers with the brightest of ten pixels: FGSM and PGD can be told in advance."""

    class Brightest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    images = torch.zeros(20, 2, 5, 1, dtype=torch.uint8)
    images.view(20, 10)[:, 3] = torch.tensor([255] * 10 + [51] * 10)  # half of them by 1, half by 0.2
    data = ImageSet(images, torch.full((20,), 3), tuple("0123456789"), "pixels")
    network = Brightest().train()
    state = torch.get_rng_state()
    measured = Monitor(data, torch.device("cpu"), batch_size=8).measure(network, engine.ThreatModel(0.15))
    assert measured == {"n": 20, "clean": 1.0, "fgsm": 0.5, "pgd": 0.5}
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)


# -- records ----------------------------------------------------------------------------------------------------------


def test_cost_counts_passes_of_training_alone(tmp_path: Path, digits: ImageSet) -> None:
    result = train(tiny(), tmp_path, data=digits, progress=False)
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert {k: cost[k] for k in result.cost} == result.cost
    assert cost["updates"] == cost["backwards"] == cost["input_gradients"] == UPDATES
    assert cost["forwards"] == 2 * UPDATES
    assert cost["seconds"] > 0
    assert cost["images_per_second"] == pytest.approx(UPDATES * 64 / cost["seconds"])
    assert {"device", "torch", "headstart"} <= cost["environment"].keys()


def test_seconds_of_the_processor_go_on_in_a_resumed_run(tmp_path: Path, digits: ImageSet) -> None:
    first = train(tiny(max_steps=BATCHES), tmp_path, data=digits, progress=False).cost["processor_seconds"]
    second = train(tiny(), tmp_path, data=digits, progress=False, resume=True).cost["processor_seconds"]
    assert second > first > 0
    again = train(tiny(), tmp_path, data=digits, progress=False, resume=True).cost["processor_seconds"]
    assert again == pytest.approx(second, rel=0.5)  # nothing is left to do


def test_weights_say_what_they_are(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(epsilon="51/255"), tmp_path, data=digits, progress=False)
    best = max(rows(tmp_path), key=lambda row: (row["val"]["pgd"], row["epoch"]))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        said = stored.metadata()
        names = set(stored.keys())
    assert said["model"] == "small"
    assert json.loads(said["model_args"]) == {"widths": [4, 8]}
    assert json.loads(said["classes"]) == list("0123456789")
    assert (said["channels"], said["method"], said["norm"]) == ("1", "fgsm-rs", "linf")
    assert float(said["epsilon"]) == 0.2
    assert (said["epoch"], json.loads(said["validation"])) == (str(best["epoch"]), best["val"])
    assert names == set(build_model("small", 10, 1, {"widths": [4, 8]}).state_dict())


@pytest.mark.parametrize(("method", "epoch"), [("standard", "3"), ("fgsm", "1")])
def test_plain_training_is_judged_by_clean_accuracy(
    method: str, epoch: str, tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chosen checkpoint, and whether losing all PGD accuracy is a collapse."""
    early, late = {"clean": 0.5, "fgsm": 0.4, "pgd": 0.3}, {"clean": 0.9, "fgsm": 0.4, "pgd": 0.0}
    accuracies = iter([early, late, late])
    monkeypatch.setattr(Monitor, "measure", lambda *_: next(accuracies))
    train(tiny(method, on_collapse="stop"), tmp_path, data=digits, progress=False)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        assert stored.metadata()["epoch"] == epoch
    assert [row["collapsed"] for row in rows(tmp_path)] == ([False] * 3 if method == "standard" else [False, True])


def test_epoch_checkpoints_are_thinned_out(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(epochs=4, keep=2), tmp_path, data=digits, progress=False)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["best.safetensors", "epoch-0003.pt", "epoch-0004.pt", "last.pt", "previous.pt"]
    assert load_state(tmp_path / "checkpoints" / "epoch-0003.pt")["clock"]["update"] == 3 * BATCHES


def test_validates_as_often_as_told_and_at_the_end(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(epochs=5, eval_every=2), tmp_path, data=digits, progress=False)
    assert [row["epoch"] for row in rows(tmp_path) if "val" in row] == [2, 4, 5]


def test_epsilon_rises_at_every_update(tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    descend = Trainer._descend

    def spy(self: Trainer, step: Step, **part: Any) -> Tensor:
        used.append(step.threat.epsilon)
        return descend(self, step, **part)

    monkeypatch.setattr(Trainer, "_descend", spy)
    train(tiny(epsilon_ramp=0.75), tmp_path, data=digits, progress=False)
    assert used == pytest.approx([0.2 * min(1, update / UPDATES / 0.75) for update in range(UPDATES)])
    assert [row["epsilon"] for row in rows(tmp_path)] == pytest.approx([0.2 * 4 / 9, 0.2 * 8 / 9, 0.2])
    with safe_open(tmp_path / "model.safetensors", framework="pt") as kept:
        assert kept.metadata()["epoch"] == "3"  # weaker attacks are no ground for keeping a network


def test_learning_rate_follows_the_milestones(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(schedule="multi-step", milestones=[1, 2]), tmp_path, data=digits, progress=False)
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.005, 0.0005, 0.0005])


def test_gradients_are_clipped(tmp_path: Path, digits: ImageSet) -> None:
    """Plain SGD at rate 1 moves the weights by at most the largest norm of a gradient."""
    torch.manual_seed(0)
    network = build_model("small", 10, 1, {"widths": [4, 8]})
    before = [p.detach().clone() for p in network.parameters()]
    still: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "max_steps": 1}
    train(tiny(clip_gradient=0.01, **still), tmp_path, data=digits, model=network, progress=False)
    moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)]).detach().norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_networks_that_do_not_fit_the_data_are_refused(tmp_path: Path, digits: ImageSet) -> None:
    for network, said in [
        (build_model("small", 7, 1), r"to \(2, 7\); some digits .* has 10 classes"),
        (build_model("small", 10, 3), "does not take images of shape"),
        (nn.Identity(), "maps two images to"),
    ]:
        with pytest.raises(UserError, match=said):
            train(tiny(), tmp_path / "run", data=digits, model=network, progress=False)
    with pytest.raises(UserError, match="batch_size 512 exceeds the 236 training images"):
        train(tiny(batch_size=512, drop_last=True), tmp_path / "run", data=digits, progress=False)
    with pytest.raises(UserError, match="val_size is 300"):
        train(tiny(val_size=300), tmp_path / "run", data=digits, progress=False)
    assert not (tmp_path / "run").exists()
