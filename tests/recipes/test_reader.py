"""Recipe files and names: what is merged, what is refused in words, and what is written reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.errors import UserError
from headstart.recipes.reader import load_recipe, recipe_names, save_recipe


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


def test_arguments_of_another_network_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: cifar10-small/fgsm-sdi\nmodel: resnet18\nmodel_args: {act: silu}\n")
    assert load_recipe("cifar10-small/fgsm-sdi").model_args != {}
    assert load_recipe("cifar10-small/fgsm-sdi", model="resnet18").model_args == {}
    assert load_recipe(str(path)).model_args == {"act": "silu"}
    assert load_recipe("cifar10-small/fgsm-sdi", model="resnet18", model_args={"act": "silu"}) == load_recipe(str(path))
    same = load_recipe("cifar10-small/fgsm-sdi", model="small", model_args={"act": "silu"})
    assert same.model_args == load_recipe("cifar10-small/fgsm-sdi").model_args | {"act": "silu"}


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
        ("recipe: digits/fgsm-sdi\nmethod_args:", "method_args is None; it must be keys and values"),
        ("model_args: null", "model_args is None; it must be keys and values"),
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
        ("./mine", r"unknown recipe './mine' \(allowed: .*digits/METHOD"),
        ("digits", "unknown recipe 'digits'; did you mean 'digits/METHOD'?"),
        ("nowhere.yaml", "nowhere.yaml does not exist"),
    ]:
        with pytest.raises(UserError, match=said):
            load_recipe(name)
    with pytest.raises(UserError, match="unknown recipe field 'epoch'; did you mean 'epochs'"):
        load_recipe("digits/fgsm-rs", epoch=3)
