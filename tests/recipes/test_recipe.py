"""Recipes: every wrong value is refused in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from headstart.errors import UserError
from headstart.recipes.recipe import Recipe


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
        ("image_size", 0, "image_size is 0; it must be at least 1, or null"),
        ("workers", -1, "workers is -1; it must be at least 0, or null"),
        ("peak", 1, "peak is 1.0; it must be at least 0 and below 1"),
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
        ("seed", 2**32, "seed is 4294967296; it must be at least 0 and at most 4294967295"),
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


def test_recipes_do_not_change() -> None:
    recipe = Recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3  # type: ignore[misc]
