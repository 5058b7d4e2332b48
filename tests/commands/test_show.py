"""``headstart train --show``: the recipe in full, and a cost that is what training then takes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from headstart.commands.main import main
from headstart.commands.show import in_words
from headstart.data import ImageSet
from headstart.errors import DataError, OutOfMemory, SettingError
from headstart.recipes.reader import load_recipe
from headstart.training import estimate as module
from headstart.training.estimate import estimate
from headstart.training.learner import Learner
from headstart.training.train import train
from tests.training.runs import tiny


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "FIRST_UPDATES", 1)
    monkeypatch.setattr(module, "UPDATES", 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def test_it_can_be_trained_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--epochs", "3", "--device", "cpu", "--model_args.widths", "[4,8]", "--epsilon", "8/255"]
    assert main(["train", "--show", "digits/fgsm-rs", *flags]) == 0
    text = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine.yaml").write_text(text)
    wanted = load_recipe(
        "digits/fgsm-rs", epochs=3, device="cpu", model_args={"widths": [4, 8]}, epsilon="8/255"
    )  # fmt: skip
    assert load_recipe(str(tmp_path / "mine.yaml")) == wanted
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert "1,097 images to train on, 200 to choose the checkpoint by" in comments[0]
    assert comments[1] == "# updates: 54 of 64 images"
    assert comments[2] == "# passes per update: 2 forwards, 1 input gradients, 1 backwards"
    assert "epsilon: 8/255" in text.splitlines()
    assert [line.split()[1] for line in comments[3:]] == ["memory:", "time:"]


@pytest.mark.parametrize("method", ["fgsm-rs", "free"])
def test_the_counts_are_those_of_the_training(tmp_path: Path, digits: ImageSet, method: str) -> None:
    recipe = tiny(method, eval_every=2, average=0.9)
    cost = estimate(recipe, digits)
    run = train(recipe, tmp_path / "run", data=digits, progress=False)
    counted = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert cost.updates == counted["updates"]
    assert cost.measured == 4
    for kind, passes in asdict(cost.passes).items():
        assert passes / cost.measured == counted[kind] / counted["updates"]
    assert cost.parameters == sum(p.numel() for p in run.model.parameters())
    assert (cost.images, cost.validation_images) == (300 - 64, 64)
    assert cost.validations == sum("val" in row for row in run.metrics)
    assert cost.memory > 2**20
    assert cost.total_seconds == pytest.approx(cost.updates * cost.seconds + 2 * cost.validation_seconds)


def test_max_steps_and_several_processes(digits: ImageSet) -> None:
    assert estimate(tiny(max_steps=5), digits).updates == 5
    shared = estimate(replace(tiny(), devices=2), digits)
    assert shared.updates == estimate(tiny(), digits).updates
    assert shared.images == 300 - 64


def test_what_training_would_refuse_is_refused(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="batch_size 512 exceeds the 236 training images"):
        estimate(tiny(batch_size=512, drop_last=True), digits)
    with pytest.raises(SettingError, match="val_size is 300"):
        estimate(tiny(val_size=300), digits)
    with pytest.raises(DataError, match="does not exist"):
        estimate(tiny(data="parquet:nowhere"))

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(Learner, "update", full)
    with pytest.raises(OutOfMemory, match="out of memory at batch_size 64; try accumulate 2"):
        estimate(tiny(), digits)


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 seconds"), (150, "2 minutes"), (9000, "2.5 hours")])
def test_time_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
