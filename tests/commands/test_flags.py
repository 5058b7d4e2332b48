"""Flags made from a dataclass: what was given, null among it, and what was not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from headstart.commands import evaluate
from headstart.commands.flags import add_fields, attributes, given
from headstart.commands.main import COMMANDS, main, make_parser
from headstart.commands.train import GROUPS
from headstart.evaluation.settings import FIELDS
from headstart.fields import fraction_of, pixel_fraction
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """What a test measures.

    Attributes:
        steps: updates.
        first, last: where it begins and ends, in a text
            of two lines: as here.
        extra: whatever else.

    Raises:
        ValueError: never.
    """

    steps: int = 3
    first: str | None = "a"
    last: str | None = None
    extra: dict[str, Any] | None = None


def parsed(*words: str, **choice: Any) -> dict[str, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--out", type=Path, default=Path("here"))
    add_fields(parser, Settings, **choice)
    return given(parser.parse_args([*words]), Settings)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("--out there", {}),
        ("--steps 3", {"steps": 3}),  # the default, and yet given
        ("--first null --extra null", {"first": None, "extra": None}),
        ("--extra.a 1 --extra.b [2]", {"extra": {"a": 1, "b": [2]}}),
        ("--extra null --extra.a 1", {"extra": {"a": 1}}),
    ],
)
def test_given(words: str, values: dict[str, Any]) -> None:
    assert parsed(*words.split()) == values


def test_some_fields() -> None:
    for choice in ({"only": ("first",)}, {"skip": ("steps",)}):
        assert parsed("--first", "b", **choice) == {"first": "b"}
        with pytest.raises(Exception, match="--steps"):
            parsed("--steps", "4", **choice)


def test_help_is_the_docstring() -> None:
    where = "where it begins and ends, in a text of two lines: as here."
    assert attributes(Settings) == {"steps": "updates.", "first": where, "last": where, "extra": "whatever else."}
    assert attributes(Recipe).keys() == Recipe.__dataclass_fields__.keys()


@pytest.mark.parametrize("name", ["image_size", "weights", "max_steps", "samples", "workers"])
def test_null_overrides_the_recipe(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("recipe: imagenet/fgsm\nweights: run\nmax_steps: 3\nsamples: 4\nworkers: 2\n")
    assert getattr(load_recipe(str(mine)), name) is not None
    options = make_parser().parse_args(["train", str(mine), f"--{name}", "null"])
    assert given(options.train, Recipe) == {name: None}
    assert getattr(load_recipe(str(mine), **given(options.train, Recipe)), name) is None


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("method_args", "--method_args is null; it must be keys and values such as {alpha: 0.1}"),
        ("epochs", "--epochs is null; it must be a whole number"),
        ("epsilon", "epsilon is 'null'; write a pixel fraction such as 8/255 or 0.03"),
        ("schedule", "--schedule is null; it must be one of one-cycle, triangular, multi-step, constant"),
        ("compile", "--compile is null; it must be true or false"),
    ],
)
def test_null_where_a_value_is_needed(flag: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits/fgsm", f"--{flag}", "null"]) == 2
    assert capsys.readouterr().err == f"headstart: {line}\n"


def shown(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The help of a command, on one line."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No word is broken at its hyphen."""
    monkeypatch.setenv("COLUMNS", "300")


def test_help_says_bounds_and_choices_but_no_types(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "train")
    assert said.startswith("usage: headstart train RECIPE [--FLAG ...]")
    for part in (
        "--milestones [N, ...] epochs at which multi-step multiplies the rate by 0.1",
        "--epochs N passes over the training part (at least 1)",
        "--average X decay of the weight average per update; 0 for none (at least 0 and below 1)",
        "--max_steps N stop after so many weight updates; schedules still follow the full length (at least 1)",
        "--precision {fp32,bf16} fp32, or bf16 for bfloat16 autocast around the network",
        "--data DATA data set, see headstart list datasets",
        "--method_args {KEY: VALUE} settings of the method (also --method_args.KEY VALUE)",
    ):
        assert re.search(re.escape(part) + r" (--|\w+: --)", said), part


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_shows_types(capsys: pytest.CaptureFixture[str], command: str) -> None:
    said = shown(capsys, command)
    for noise in ("type:", "default: null", "Optional", "Union", "<class", "``", "ITEM", "{}"):
        assert noise not in said


def test_flags_of_a_recipe_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    fields = [name for names in GROUPS.values() for name in names]
    assert sorted(fields) == sorted(Recipe.__dataclass_fields__), (
        "a field of a recipe needs a group in commands/train.py"
    )
    said = shown(capsys, "train")
    places = [said.index(f"{title}: --{names[0]} ") for title, names in GROUPS.items()]
    assert [*GROUPS] == ["data", "network", "method", "schedule", "hardware", "safety"]
    assert places == sorted(places)


def test_settings_of_an_evaluation_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(name for names in evaluate.GROUPS.values() for name in names) == sorted(FIELDS)
    said = shown(capsys, "evaluate")
    assert "hardware: --device DEVICE" in said
    assert said.index("attack: --suite") < said.index("hardware: --device")


def test_help_on_a_recipe_shows_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "train", "cifar10/fgsm-sdi")
    for part in (
        "headstart list datasets (default: cifar10)",
        "may be written 8/255 (default: 8/255)",
        "(above 0) (default: 0.2)",
        "label_smoothing: 0.4",
        "generator_width: 64",  # of the method, where the recipe says nothing
        "torch.compile (default: false)",
        "null for fresh weights (default: null)",
    ):
        assert part in said
    assert "(default" not in shown(capsys, "train")
    assert main(["train", "cifar10/nope", "--help"]) == 2


@pytest.mark.parametrize(
    ("epsilon", "text"), [(8 / 255, "8/255"), (0.3, "0.3"), (0.0, "0.0"), (1.0, "255/255"), (12.75 / 255, "0.05")]
)
def test_epsilon_is_written_as_it_is_read(epsilon: float, text: str) -> None:
    assert fraction_of(epsilon) == text
    assert pixel_fraction(text) == epsilon


def test_help_says_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "bench")
    assert "usage: headstart bench RECIPES ... [--FLAG ...]" in said
    assert "headstart list suites (default: standard)" in said
    assert "{}" not in said
