"""How long attacks are said to take: their passes are counted, and the time is a model's own clock."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Generator, Tensor

from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.estimate import Cost, Pace, duration_of, in_words, pace_of, passes_of
from headstart.evaluation.suites import ATTACKS, SUITES, Task
from headstart.fields import duration
from tests.attacks.attack_models import Linear, Wrapped, linear_task
from tests.evaluation.measuring import measure
from tests.evaluation.test_guide import Counting


class Ticking(Wrapped):
    """A model by whose clock a forward pass takes 2 s and 1 s an image, and a backward pass twice as long."""

    now = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now += 2 + len(x)
        if x.requires_grad and torch.is_grad_enabled():
            x = x.clone()
            x.register_hook(self._back)
        return self.model(x)

    def _back(self, grad: Tensor) -> None:
        self.now += 2 * (2 + len(grad))

    def clock(self) -> float:
        return self.now

    def __deepcopy__(self, memo: object) -> Ticking:
        raise TypeError("one clock")


@pytest.mark.parametrize(("classes", "names"), [(4, ("apgd-t", "fab-t", "cr")), (10, tuple(ATTACKS))])
def test_the_passes_are_those_that_the_attacks_make(classes: int, names: tuple[str, ...]) -> None:
    model = Counting()
    model.model = Linear(classes).requires_grad_(False)
    x = linear_task(2)[1]
    y = model(x).argmax(1)
    task = Task(model, ThreatModel(1e-4), classes, x.device, random=True, alone=False)
    for name in names:
        if name == "transfer":  # is APGD-CE on another model
            continue
        model.forwards = model.backwards = 0
        with torch.random.fork_rng(devices=[]):
            ATTACKS[name].prepare(task)(x, y, Generator().manual_seed(0))
        counted = (model.forwards / len(x), model.backwards / len(x))
        assert passes_of(name, classes) == pytest.approx(counted, rel=0.1), name


def test_the_pace_tells_what_a_batch_costs_from_what_its_images_cost() -> None:
    model = Ticking(Linear(10))
    x, y = linear_task(40)[1:]
    pace = pace_of(model, x, y, model.clock)
    assert pace.forward == Cost(2.0, 1.0)
    assert pace.both == Cost(6.0, 3.0)
    assert pace_of(model, x[:1], y[:1], model.clock).forward == Cost(3.0, 0.0)


def test_later_attacks_of_a_chain_are_expected_on_what_the_first_leaves() -> None:
    pace = Pace(Cost(0, 1), Cost(0, 3))
    ce, t = 1 + 101 * 3, 10 + 909 * 3
    found = duration_of(["apgd-ce", "apgd-t"], 100, pace, 10, batch_size=50)
    assert found.most == 100 * (ce + t)
    assert found.expected == 100 * ce + 60 * t
    assert duration_of(["apgd-ce"], 100, pace, 10, batch_size=50, processes=2).most == 50 * ce
    both = duration_of(["pgd-10", "pgd-20"], 10, Pace(Cost(1, 0), Cost(1, 0)), 10, batch_size=4)
    assert both.most == both.expected == 3 * 30, "three batches of thirty passes"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (38 * 60, "38 min"), (9000, "2.5 h")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_it_is_said_before_a_suite_starts(caplog: pytest.LogCaptureFixture) -> None:
    x, y = linear_task(20)[1:]
    with caplog.at_level(logging.INFO, "headstart"):
        measure(Linear(10), x, y, ThreatModel(1 / 255), "light", progress=True)
        (said,) = caplog.messages
        assert said == "light on 20 images: about 1 s, at most 1 s"
        measure(Linear(10), x, y, ThreatModel(1 / 255), "light")
        assert len(caplog.messages) == 1, "quiet where no progress is asked for"


def test_every_attack_of_a_suite_has_its_passes() -> None:
    assert all(passes_of(name, 10) for suite in SUITES.values() for name in suite.attacks)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45), (2.5, 2.5)])
def test_durations(text: str | float, seconds: float) -> None:
    assert duration("budget", text) == seconds


@pytest.mark.parametrize("text", ["", "ten minutes", "10 min", "-5m", "0", "0s", "1d", "1e3", True])
def test_what_is_no_duration(text: str | bool) -> None:
    with pytest.raises(UserError, match=r"budget is .*; write a time above 0 such as 90s, 10m or 1.5h"):
        duration("budget", text)
