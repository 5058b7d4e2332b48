"""Settings of methods, typed by the builder's signature: a wrong value is one line that names it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.helpers import THREAT, batches, info, tiny_net

from headstart.core import Clock, Step, Target
from headstart.errors import DataError, OutOfMemory, SettingError, WeightsError
from headstart.fields import describe
from headstart.methods.registry import build_method, methods
from headstart.parts.memory import SampleMemory

WRONG: dict[str, list[Any]] = {
    "true or false": ["abc", 1],
    "a whole number": ["abc", 2.5, True],
    "a number": ["abc", True, [1.0], math.inf],
    "a list of whole numbers such as [100, 105]": ["abc", 3, [1.5]],
    "a list of numbers such as [0.1, 0.5]": [0.1, ["abc"]],
    "keys and values such as {alpha: 0.1}": ["abc", [1]],
    "text": [1, True],
}
CASES = [
    (name, setting, value)
    for name, entry in methods().items()
    for setting, parameter in entry.parameters.items()
    for value in WRONG.get(describe(parameter.annotation), ["abc"])
]


@pytest.mark.parametrize(("name", "setting", "value"), CASES)
def test_a_wrong_value_is_one_line(name: str, setting: str, value: Any) -> None:
    allowed = describe(methods()[name].parameters[setting].annotation)
    with pytest.raises(SettingError) as raised:
        build_method(name, info(), {setting: value})
    said = str(raised.value)
    assert "\n" not in said
    for part in (f"{setting} of method {name}", repr(value), *allowed.removeprefix("one of ").split(", ")):
        assert part in said


def test_every_setting_has_a_type() -> None:
    kinds = {describe(p.annotation) for entry in methods().values() for p in entry.parameters.values()}
    assert {kind for kind in kinds if not kind.startswith("one of")} == set(WRONG)


@pytest.mark.parametrize(
    ("name", "setting", "given", "taken"),
    [
        ("elle", "weight", "1e3", 1000.0),
        ("fgsm", "label_smoothing", 0, 0.0),
        ("fgsm-mep", "reset_every", None, None),
        ("liet", "replaced", (0, 1), [0, 1]),
    ],
)
def test_values_as_yaml_gives_them(name: str, setting: str, given: Any, taken: Any) -> None:
    checked = methods()[name].checked({setting: given})[setting]
    assert checked == taken
    assert type(checked) is type(taken)


@pytest.mark.parametrize("replaced", [[0.1], [0.5, 0.1], [0.0, 1.5], [0.1, 0.2, 0.3]])
def test_liet_wants_two_shares_in_order(replaced: list[float]) -> None:
    with pytest.raises(SettingError, match="two shares in order"):
        build_method("liet", info(), {"replaced": replaced})


@pytest.mark.parametrize("name", ["fgsm-ep", "sdi-memory"])
def test_a_method_that_remembers_samples_asks_which_they_are(name: str) -> None:
    x, y, _ = batches(1)[0]
    with pytest.raises(DataError, match="remembers samples: pass index"):
        build_method(name, info(), {})(Target(tiny_net()), Step(x, y, THREAT, Clock()))


def test_memory_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(OutOfMemory, match="remembers 64 samples"):
        SampleMemory(info())


def test_routing_needs_features() -> None:
    with pytest.raises(WeightsError, match="needs a linear layer"):
        build_method("fgsm-fuap", info(features=0))
