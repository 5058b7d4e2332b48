"""The weight update: parts of a batch, epsilon now, clipping, and layers that do not move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart.core import Step, Target
from headstart.data import ImageSet
from headstart.errors import SettingError, UserError
from headstart.models import build_model
from headstart.training.train import train
from headstart.training.update import Updater
from tests.training.runs import BATCHES, EPOCHS, UPDATES, Plain, records, rows, tiny


@pytest.mark.parametrize("parts", [2, 16])
def test_accumulated_parts_make_the_update_of_the_whole_batch(tmp_path: Path, digits: ImageSet, parts: int) -> None:
    """Also on the last batch of an epoch: its 44 images make 22 and 22, or fourteen threes and a two."""
    recipe = tiny("fgsm", lr=0.5)
    whole = train(recipe, tmp_path / "whole", data=digits, model=Plain(), progress=False)
    accumulated = replace(recipe, accumulate=parts)
    split = train(accumulated, tmp_path / "split", data=digits, model=Plain(), progress=False)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert split.cost["updates"] == UPDATES
    assert split.cost["backwards"] == sum(-(-n // -(-n // parts)) for n in (64, 64, 64, 44)) * EPOCHS
    assert [row["loss"] for row in split.metrics] == pytest.approx([row["loss"] for row in whole.metrics], rel=1e-5)


def test_resumes_with_accumulation(tmp_path: Path, digits: ImageSet) -> None:
    recipe = tiny("fgsm-sdi", accumulate=4)
    train(recipe, tmp_path / "whole", data=digits, progress=False)
    train(replace(recipe, max_steps=BATCHES + 1), tmp_path / "run", data=digits, progress=False)
    train(recipe, tmp_path / "run", resume=True, data=digits, progress=False)
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_accumulation_that_cannot_be_is_refused(tmp_path: Path, digits: ImageSet) -> None:
    with pytest.raises(UserError, match="accumulate is 3; it must divide the 64 samples"):
        tiny(accumulate=3)
    with pytest.raises(UserError, match="method free carries its perturbation"):
        train(tiny("free", accumulate=2), tmp_path, data=digits, progress=False)


def test_epsilon_rises_at_every_update(tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    descend = Updater.descend

    def spy(self: Updater, step: Step, **part: Any) -> Tensor:
        used.append(step.threat.epsilon)
        return descend(self, step, **part)

    monkeypatch.setattr(Updater, "descend", spy)
    train(tiny(epsilon_ramp=0.75), tmp_path, data=digits, progress=False)
    assert used == pytest.approx([0.2 * min(1, update / UPDATES / 0.75) for update in range(UPDATES)])
    assert [row["epsilon"] for row in rows(tmp_path)] == pytest.approx([0.2 * 4 / 9, 0.2 * 8 / 9, 0.2])
    with safe_open(tmp_path / "model.safetensors", framework="pt") as kept:
        assert kept.metadata()["epoch"] == "3"  # weaker attacks are no ground for keeping a network


def test_gradients_are_clipped(tmp_path: Path, digits: ImageSet) -> None:
    """Plain SGD at rate 1 moves the weights by at most the largest norm of a gradient."""
    torch.manual_seed(0)
    network = build_model("small", 10, 1, {"widths": [4, 8]})
    before = [p.detach().clone() for p in network.parameters()]
    still: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "max_steps": 1}
    train(tiny(clip_gradient=0.01, **still), tmp_path, data=digits, model=network, progress=False)
    moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)]).detach().norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_a_rule_for_the_average_that_needs_the_whole_batch_is_not_given_its_parts(
    tmp_path: Path, digits: ImageSet
) -> None:
    with pytest.raises(SettingError, match=r"fgsm-law decides by the whole batch.*leave accumulate or average"):
        train(tiny("fgsm-law", accumulate=2, average=0.9), tmp_path / "run", data=digits, progress=False)
    for allowed in ({"accumulate": 2}, {"average": 0.9}):
        recipe = tiny("fgsm-law", max_steps=1, **allowed)
        train(recipe, tmp_path / next(iter(allowed)), data=digits, progress=False)


# -- layers that the user has frozen ----------------------------------------------------------------------------------


class Halves(nn.Module):
    """Two batch-norms and a dropout, images (B, 1, 8, 8) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 10)
        self.frozen, self.live, self.dropout = nn.BatchNorm2d(4), nn.BatchNorm1d(36), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.live(self.dropout(self.frozen(self.conv(x)).relu().flatten(1))))
        return logits


def frozen_halves() -> Halves:
    """In training mode, but for one batch-norm and the dropout."""
    network = Halves()
    network.frozen.eval()
    network.dropout.eval()
    return network


def modes(network: nn.Module) -> dict[str, bool]:
    return {name: layer.training for name, layer in network.named_modules()}


@pytest.mark.parametrize("ascent_batch_norm", ["train", "eval", "train-frozen-stats"])
@pytest.mark.parametrize("method", ["fgsm-sdi", "trades"])  # TRADES ascends in evaluation mode
def test_frozen_layers_stay_frozen(tmp_path: Path, digits: ImageSet, method: str, ascent_batch_norm: str) -> None:
    network = frozen_halves()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    as_given = modes(network)
    recipe = tiny(method, epochs=2, average=0.9, watch_every=1, on_collapse="stop", ascent_batch_norm=ascent_batch_norm)
    train(recipe, tmp_path, data=digits, model=network, progress=False)
    assert modes(network) == as_given
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(network.state_dict()[f"frozen.{name}"], before[f"frozen.{name}"])
        assert not torch.equal(network.state_dict()[f"live.{name}"], before[f"live.{name}"])
    assert not torch.equal(network.conv.weight, before["conv.weight"])


def test_a_frozen_dropout_drops_nothing() -> None:
    """The same loss twice: with the dropout at work it would differ."""
    network, batch = frozen_halves(), torch.rand(8, 1, 8, 8)
    target = Target(network)
    with torch.no_grad():
        assert torch.equal(target(batch), target(batch))
        network.dropout.train()
        assert not torch.equal(target(batch), target(batch))
        target(batch, batch_norm="eval")
        assert not torch.equal(target(batch), target(batch)), "passes in evaluation mode change no mode for good"


def test_a_network_in_evaluation_mode_is_trained_as_a_whole(
    tmp_path: Path, digits: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    network = Halves().eval()
    train(tiny("fgsm", max_steps=1), tmp_path / "eval", data=digits, model=network, progress=False)
    assert "given in evaluation mode; all of it trains now" in caplog.text
    assert all(modes(network).values())
    caplog.clear()
    train(tiny("fgsm", max_steps=1), tmp_path / "train", data=digits, model=Halves(), progress=False)
    assert "evaluation mode" not in caplog.text
    ours, theirs = (load_file(tmp_path / name / "model-last.safetensors") for name in ("eval", "train"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_network_may_freeze_layers_in_a_train_of_its_own(tmp_path: Path, digits: ImageSet) -> None:
    class Freezing(Halves):
        def train(self, mode: bool = True) -> Freezing:
            super().train(mode)
            self.frozen.eval()
            return self

    network = Freezing()
    train(tiny("trades", max_steps=2), tmp_path, data=digits, model=network, progress=False)
    assert (network.frozen.state_dict()["num_batches_tracked"].item(), network.live.training) == (0, True)
