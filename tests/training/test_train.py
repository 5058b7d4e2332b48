"""The training loop: what it does when, and what a run says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.models import build_model
from headstart.models.fast_net import FastNet
from headstart.runs.checkpoint import load_state
from headstart.runs.environment import not_deterministic
from headstart.training.monitor import Monitor
from headstart.training.train import train
from tests.training.runs import BATCHES, UPDATES, Plain, rows, tiny


def test_the_result_holds_the_selected_weights(tmp_path: Path, digits: ImageSet) -> None:
    result = train(tiny(), tmp_path, data=digits, progress=False)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        for name, tensor in result.model.state_dict().items():
            assert torch.equal(tensor, stored.get_tensor(name)), name


# -- determinism -----------------------------------------------------------------------------------------------------


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


def test_learning_rate_follows_the_milestones(tmp_path: Path, digits: ImageSet) -> None:
    train(tiny(schedule="multi-step", milestones=[1, 2]), tmp_path, data=digits, progress=False)
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.005, 0.0005, 0.0005])


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


def test_the_fast_network_begins_with_what_it_was_shown(tmp_path: Path, digits: ImageSet) -> None:
    """Whitened once, from the training part; then part of the weights like any other."""
    fields: dict[str, Any] = {"model": "fast", "model_args": {"widths": [4, 8], "whiten": True}, "max_steps": 1}
    recipe = tiny(**fields)
    result = train(recipe, tmp_path / "run", data=digits, progress=False)
    expected = build_model("fast", 10, 1, recipe.model_args)
    assert isinstance(expected, FastNet)
    expected.initialise_from(digits.split(recipe.val_size)[0].tensors()[0].float() / 255)
    whitening = expected.state_dict()["patches.weight"]
    assert torch.equal(result.model.state_dict()["patches.weight"], whitening)
    again = train(tiny(**fields, weights=str(tmp_path / "run"), samples=100), tmp_path / "next", data=digits)
    assert torch.equal(again.model.state_dict()["patches.weight"], whitening)
