"""Recipes: every wrong value is refused in words, and what is written reads back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import UserError
from headstart.fields import pixel_fraction
from headstart.recipes.reader import load_recipe, recipe_names, save_recipe
from headstart.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("written", "value"), [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.5, 0.5), (0, 0.0), (1, 1.0)]
)
def test_pixel_fractions(written: Any, value: float) -> None:
    assert pixel_fraction(written) == value


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (8, r"epsilon is 8; .* did you mean 8/255\?"),
        ("16", r"did you mean 16/255\?"),
        (-0.1, "epsilon is -0.1; it must be a pixel fraction between 0 and 1$"),
        (300, "between 0 and 1$"),
        ("8/0", "epsilon is '8/0'; write a pixel fraction"),
        ("eight", "write a pixel fraction such as 8/255 or 0.03"),
        ("__import__('os')", "write a pixel fraction"),
        (None, "epsilon is None"),
        ([8, 255], "write a pixel fraction"),
        (float("nan"), "epsilon is nan"),
    ],
)
def test_what_is_no_epsilon(written: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recipe(epsilon=written)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", "abc", "epochs is 'abc'; it must be a whole number"),
        ("epochs", 1.5, "it must be a whole number"),
        ("epochs", True, "it must be a whole number"),
        ("epochs", None, "epochs is None; it must be a whole number"),
        ("epochs", 0, "epochs is 0; it must be at least 1"),
        ("batch_size", -1, "it must be at least 1"),
        ("max_steps", 0, "max_steps is 0; it must be at least 1"),
        ("max_steps", "ten", "max_steps is 'ten'; it must be a whole number"),
        ("lr", "fast", "lr is 'fast'; it must be a number"),
        ("lr", float("nan"), "it must be a number"),
        ("lr", 0, "lr is 0.0; it must be above 0"),
        ("momentum", -0.9, "momentum is -0.9; it must be at least 0"),
        ("weight_decay", -1, "it must be at least 0"),
        ("clip_gradient", -1, "it must be at least 0"),
        ("average", 1, "it must be at least 0 and below 1"),
        ("epsilon_ramp", 1.0, "below 1"),
        ("seed", -1, "seed is -1; it must be at least 0"),
        ("seed", 2**32, "seed is 4294967296; it must be at most 4294967295"),
        ("compile", "yes", "compile is 'yes'; it must be true or false"),
        ("compile", 1, "it must be true or false"),
        ("method", 5, "method is 5; it must be text"),
        ("data", None, "data is None; it must be text"),
        ("norm", "l3", r"unknown norm 'l3'; did you mean 'l2'\? \(allowed: l2, linf\)"),
        ("method_args", [1], "method_args is .*; it must be keys and values"),
        ("milestones", 5, "milestones is 5; it must be a list of whole numbers"),
        ("milestones", [1.5], "it must be a list of whole numbers"),
        ("milestones", [0, 3], "milestone 0 is not an epoch"),
        ("schedule", "one-cycel", "unknown value of schedule: 'one-cycel'; did you mean 'one-cycle'"),
        ("schedule", "multi-step", "schedule multi-step needs milestones"),
        ("optimizer", 3, "unknown value of optimizer: '3'"),
        ("devices", 3, "batch_size 128 does not divide among 3 processes"),
    ],
)
def test_refuses(field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recipe(**{field: value})


def test_numbers_as_yaml_reads_them(tmp_path: Path) -> None:
    """To YAML 1e-3 is text, because it has no dot."""
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: digits/fgsm-rs\nlr: 1e-3\nweight_decay: 0\nepsilon: 8/255\nmax_steps:\n")
    recipe = load_recipe(str(path))
    assert (recipe.lr, recipe.weight_decay, recipe.epsilon, recipe.max_steps) == (0.001, 0.0, 8 / 255, None)
    assert recipe.model == "small"  # of the recipe it starts from


def test_saved_recipes_read_back(tmp_path: Path) -> None:
    recipe = load_recipe("digits/fgsm-sdi", epochs=3, milestones=(1, 2), method_args={"generator_width": 4})
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(str(tmp_path / "config.yaml")) == recipe


def test_every_built_in_recipe_is_valid() -> None:
    names = recipe_names()
    assert {"digits/fgsm-sdi", "cifar10/fgsm-sdi", "cifar10/pgd-at"} <= set(names)
    for name, summary in names.items():
        recipe = load_recipe(name)
        assert recipe.method == name.split("/")[1]
        assert recipe.epsilon > 0
        assert summary
        assert "\n" not in summary


def test_arguments_are_merged_and_those_of_another_method_dropped(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: digits/fgsm-sdi\nmethod_args: {generator_width: 5}\nmodel_args: {act: silu}\n")
    sdi = load_recipe(str(path))
    built_in = load_recipe("digits/fgsm-sdi")
    assert sdi.method_args == built_in.method_args | {"generator_width": 5}
    assert load_recipe(str(path), method="fgsm-rs").method_args == {}
    assert load_recipe(str(path), method="fgsm-rs").model_args == {"act": "silu"}
    assert load_recipe("digits/fgsm-sdi", method="fgsm-rs") == load_recipe("digits/fgsm-rs")
    assert load_recipe(str(path), method_args={"generator_width": 6}).method_args["generator_width"] == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", r"unknown key in .*mine.yaml: 'epoch'; did you mean 'epochs'"),
        ("- 3", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("recipe: digits/fgsm-rz", "unknown recipe 'digits/fgsm-rz'; did you mean 'digits/fgsm-rs'"),
        ("recipe: 5", "unknown recipe '5'"),
        ("recipe: digits/fgsm-rs\nmethod_args: 3", "method_args is 3; it must be keys and values"),
        ("epochs: abc", "epochs is 'abc'; it must be a whole number"),
    ],
)
def test_recipe_files_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)


def test_names_that_do_not_exist() -> None:
    for name, said in [
        ("digits/fgsm-rz", "did you mean 'digits/fgsm-rs'"),
        ("dgits/fgsm-rs", "did you mean 'digits/fgsm-rs'"),
        ("digits", "unknown recipe 'digits'; did you mean 'digits/METHOD'?"),
        ("nowhere.yaml", "nowhere.yaml does not exist"),
    ]:
        with pytest.raises(UserError, match=said):
            load_recipe(name)
    with pytest.raises(UserError, match="unknown recipe field 'epoch'; did you mean 'epochs'"):
        load_recipe("digits/fgsm-rs", epoch=3)


def test_recipes_do_not_change() -> None:
    recipe = Recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3  # type: ignore[misc]
