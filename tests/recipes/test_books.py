"""Every method, by recipe, through the real engine: it builds, trains, writes its network and resumes."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from headstart.core import TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.methods.registry import build_method, methods
from headstart.models import build_model
from headstart.recipes.reader import load_recipe, recipe_names
from headstart.training.train import train
from tests import helpers
from tests.training.runs import records

CLASSES = 10
TINY: dict[str, Any] = {
    "model": "small",
    "model_args": {"widths": [4, 8]},
    "epsilon": "8/255",
    "epochs": 2,
    "batch_size": 8,
    "val_size": 8,
    "pad": 1,
    "device": "cpu",
}
STEPS = {"steps": 2}
GENERATOR = {"generator_width": 4}
SMALL: dict[str, dict[str, Any]] = {  # settings that make a method cheap
    "awp": {"method_args": STEPS},
    "fgsm-fuap": {"groups": 4},
    "fgsm-sdi": GENERATOR,
    "free": {"replays": 2},
    "mart": STEPS,
    "pgd-at": STEPS,
    "pgd-at-awp": STEPS,
    "sdi-liet": GENERATOR,
    "sdi-memory": GENERATOR,
    "sdi-pgi": GENERATOR,
    "sdi-through": GENERATOR,
    "trades": STEPS,
    "trades-awp": STEPS,
}


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """40 colour images of 8 pixels: 8 are held out, and the other 32 make four updates an epoch."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 8, 8, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % CLASSES
    return ImageSet(pixels, labels, tuple(str(k) for k in range(CLASSES)), "noise")


@pytest.fixture
def task() -> TaskInfo:
    """CIFAR-10 with a thousand samples."""
    return TaskInfo(CLASSES, (3, 32, 32), ThreatModel(8 / 255), 1_000, 128, 240, 30, features=512, pad=4)


def run(method: str, images: ImageSet, out: Path, max_steps: int, **more: Any) -> Path:
    """The folder of a short training run."""
    fields = {**TINY, "method_args": SMALL.get(method, {}), "max_steps": max_steps, **more}
    train(load_recipe(f"digits/{method}", **fields), out, data=images, progress=False, resume=out.exists())
    return out


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in recipe_names() if "-paper/" not in n and "-bench/" not in n])
def test_recipe_trains_two_updates(name: str) -> None:
    """With all its own settings but the network: those of many methods follow from classes and epsilon.

    The books of published protocols have a test of their own.
    """
    recipe = load_recipe(name)
    classes = {"cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000}.get(name.split("/")[0], CLASSES)
    threat = ThreatModel(cast(float, recipe.epsilon))
    task = helpers.info(threat, classes=classes, epochs=recipe.epochs, updates=50 * recipe.epochs)
    network = helpers.tiny_net(classes=classes)
    before = copy.deepcopy(network.state_dict())
    losses = helpers.run_method(
        build_method(recipe.method, task, recipe.method_args), network, helpers.batches(2), threat
    )
    assert all(math.isfinite(loss) for loss in losses)
    assert not torch.equal(network.state_dict()["conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize("data", sorted({name.split("/")[0] for name in recipe_names()}))
def test_networks_of_recipes_build(data: str) -> None:
    recipe = load_recipe(f"{data}/fgsm-sdi")
    with torch.device("meta"):
        build_model(recipe.model, CLASSES, 3, recipe.model_args)


@pytest.mark.parametrize("method", methods())
def test_two_updates(method: str, images: ImageSet, tmp_path: Path) -> None:
    out = run(method, images, tmp_path / "run", max_steps=2)
    trained = load_file(out / "model.safetensors")
    assert all(value.isfinite().all() for value in trained.values())
    torch.manual_seed(0)
    initial = build_model(TINY["model"], CLASSES, 3, TINY["model_args"]).state_dict()
    assert trained.keys() == initial.keys()
    assert not torch.equal(trained["linear.weight"], initial["linear.weight"])


@pytest.mark.parametrize("method", ["fgsm-mep", "sdi-memory", "liet"])
@pytest.mark.parametrize(("first", "last"), [(2, 4), (3, 7)])
def test_resumes_to_the_same_end(method: str, first: int, last: int, images: ImageSet, tmp_path: Path) -> None:
    """(3, 7): stopped within the first epoch, then on into the second, which reads what the first remembered."""
    whole = run(method, images, tmp_path / "whole", max_steps=last)
    parts = run(method, images, tmp_path / "parts", max_steps=first)
    assert not (parts / "metrics.jsonl").exists()  # no epoch is complete
    assert records(run(method, images, parts, max_steps=last)) == records(whole)


# -- recipe files ----------------------------------------------------------------------------------------------------


def test_file_on_file_on_recipe(tmp_path: Path, images: ImageSet) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("recipe: digits/fgsm-sdi\nlr: 1e-2\nmethod_args: {generator_width: 4, relative_alpha: 0.5}\n")
    mine.write_text(f"recipe: {base}\nlr: 0.02\nmethod_args: {{relative_alpha: 0.75}}\n")
    recipe = load_recipe(str(mine), method_args={"generator_every": 3})
    built_in = load_recipe("digits/fgsm-sdi")
    settings = {"generator_width": 4, "relative_alpha": 0.75, "generator_every": 3}
    method_args = built_in.method_args | settings
    assert recipe == dataclasses.replace(built_in, lr=0.02, method_args=method_args)
    tiny = {key: value for key, value in TINY.items() if key != "model_args"}
    train(load_recipe(str(mine), max_steps=1, **tiny), tmp_path / "run", data=images, progress=False)
    assert load_recipe(str(tmp_path / "run" / "config.yaml")).method_args == built_in.method_args | {
        "generator_width": 4,
        "relative_alpha": 0.75,
    }


def test_a_file_with_another_method_drops_the_settings_of_the_first(tmp_path: Path, task: TaskInfo) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    mine.write_text("recipe: cifar10/fgsm-sdi\nmethod: n-fgsm\nmethod_args: {noise_scale: 1}\n")
    recipe = load_recipe(str(mine))
    assert recipe == load_recipe("cifar10/n-fgsm", method_args={"noise_scale": 1})
    base.write_text("recipe: digits/fgsm-sdi\nlr: 0.02\n")
    mine.write_text(f"recipe: {base}\nmethod: fgsm\n")
    recipe = load_recipe(str(mine))
    assert (recipe.method, recipe.method_args, recipe.lr) == ("fgsm", {}, 0.02)
    build_method(recipe.method, task, recipe.method_args)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: digits/fgsm-sdi\nmethod_arg: {}", r"unknown key in .*: 'method_arg'; did you mean 'method_args'"),
        ("recipes: digits/fgsm-sdi", r"unknown key in .*: 'recipes'; did you mean 'recipe'"),
        ("recipe: digits/fgsm-sid", "unknown recipe 'digits/fgsm-sid'; did you mean 'digits/fgsm-sdi'"),
        ("recipe: digits/fgsm\nmethod: trade", "unknown recipe 'digits/trade'; did you mean 'digits/trades'"),
        ("recipe: digits/fgsm\nschedule: onecycle", "unknown value of schedule: 'onecycle'; did you mean 'one-cycle'"),
        ("recipe: missing.yaml", "recipe file missing.yaml does not exist"),
        ("method: fgsm-sd", "unknown method 'fgsm-sd'; did you mean 'fgsm-sdi'"),
        ("method: liet\nmethod_args: {wait: 3}", "unknown setting of method liet: 'wait'; did you mean 'weight'"),
        ("model: smal", "unknown model 'smal'; did you mean 'small'"),
        ("model: small\nmethod: liet\nmethod_args: {template_every: 0}", "template_every is 0; it must be at least 1"),
        ("model: small\nmethod: fgsm-ep\nmethod_args: {reset_every: 0}", "reset_every is 0; it must be at least 1"),
        ("model: small\nmethod: mep-cs\nmethod_args: {reset_every: 0}", "reset_every is 0; it must be at least 1"),
    ],
)
def test_files_that_name_what_is_not_there(text: str, said: str, tmp_path: Path, images: ImageSet) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        train(load_recipe(str(path), batch_size=8, val_size=8, device="cpu"), tmp_path / "run", data=images)
    assert not (tmp_path / "run").exists()
