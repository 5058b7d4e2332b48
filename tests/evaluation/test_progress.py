"""What an evaluation shows while it runs, inside a batch too, and how little of it where nobody watches."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.evaluation import measurement, progress
from headstart.evaluation.course import Course, course_of
from headstart.evaluation.progress import AttackProgress
from headstart.evaluation.suites import ATTACKS, Task
from tests.evaluation.measuring import measure


class Firm(nn.Module):
    """Classifies by the mean of the image, with margins that no small perturbation crosses; counts its passes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0.1, 0.9, classes))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return -30 * (x.flatten(1).mean(1, keepdim=True) - self.centres).abs()


def task(model: nn.Module) -> Task:
    return Task(model, ThreatModel(0.01), 4, torch.device("cpu"))


def images(n: int = 4) -> tuple[Tensor, Tensor]:
    """All classified correctly by ``Firm``."""
    y = torch.arange(n) % 4
    return torch.linspace(0.1, 0.9, 4)[y].view(n, 1, 1, 1).expand(n, 3, 4, 4).contiguous(), y


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a wide terminal gets, drawn at every pass."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "REDRAWS", 1e9)

    def display(enabled: bool) -> AttackProgress:
        return AttackProgress(enabled, Console(file=screen, force_terminal=True, width=120))

    monkeypatch.setattr(measurement, "AttackProgress", display)
    return screen


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "transfer"])
def test_an_attack_asks_no_more_than_its_course(name: str) -> None:
    """So the share that is shown is never 1 before the end, and of one that breaks nothing it gets there."""
    model = Firm()
    course, attack = course_of(name, task(model)), ATTACKS[name].prepare(task(model))
    with torch.no_grad():
        attack(*images(), torch.Generator().manual_seed(0))
    whole = course.rounds * course.steps * course.passes
    assert model.passes <= 1.05 * whole + 2
    if name.startswith(("apgd", "fab")):  # others may leave out what they know already
        assert model.passes >= 0.8 * whole
        assert course.share(model.passes) > 0.8
    assert course.share(2 * whole) == 1


def test_places_are_told_in_words() -> None:
    model = Firm()
    targeted = course_of("apgd-t", task(model))
    assert targeted.where(1) == "target 1/3 step 1/101"
    assert targeted.where(2 + 101 + 56) == "target 2/3 step 58/101"
    assert targeted.where(10_000) == "target 3/3 step 101/101"
    assert course_of("square", task(model)).where(1235) == "query 1235/5000"
    assert course_of("pgd-20", task(model)).where(8) == "step 8/20"
    assert course_of("pgd-50-10", task(model)).where(60) == "start 2/10 step 9/51"
    assert targeted.whom == "still correct"
    assert course_of("pgd-20", task(model)).whom == "correct without attack"


def test_the_line_moves_inside_a_batch(watched: io.StringIO) -> None:
    display = AttackProgress(True, Console(file=io.StringIO(), force_terminal=True))
    model, x = Firm(), images()[0]
    with display:
        display.start("pgd-20", 6, 0.9, Course(model, "correct", 20), 4)
        shown = []
        for _ in range(10):
            model(x)
            shown.append(display._live.tasks[0].completed)
        assert shown == pytest.approx([4 * k / 20 for k in range(1, 11)])
        assert display._live.tasks[0].fields["where"] == "step 10/20"
        display.advance(4, 0.5)
        model(x)
        assert display._live.tasks[0].completed == pytest.approx(4 + 2 / 20), "the last batch is smaller"
        display.finish(6, 0.5)
        model(x)
        assert display._asked == 1, "the model is left as it was"
    assert not model._forward_hooks


def test_a_terminal_sees_attack_images_and_place(watched: io.StringIO) -> None:
    measure(Firm(), *images(8), ThreatModel(0.01), "light", progress=True, batch_size=4)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", watched.getvalue())
    assert re.search(r"pgd-20 .* 8/8 correct without attack .*at most 100.0%", shown)


def interrupted(display: AttackProgress, model: nn.Module) -> None:
    with display:
        display.start("pgd-20", 4, 0.9, Course(model, "correct", 20), 4)
        raise KeyboardInterrupt


def test_hooks_are_gone_after_an_error() -> None:
    model = Firm()
    with pytest.raises(KeyboardInterrupt):
        interrupted(AttackProgress(True, Console(file=io.StringIO(), force_terminal=True)), model)
    assert not model._forward_hooks


def test_elsewhere_there_is_a_line_for_each_attack(capsys: pytest.CaptureFixture[str]) -> None:
    model = Firm()
    measure(model, *images(8), ThreatModel(0.01), "quick", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["fgsm", "apgd-ce", "apgd-t"]
    assert re.fullmatch(r"apgd-t     8 images still correct, \d+\.\d s, accuracy at most 100\.00%", lines[-1])


def test_terminals_are_redrawn_a_few_times_a_second() -> None:
    display = AttackProgress(True, Console(file=io.StringIO(), force_terminal=True))
    assert display._live.live.refresh_per_second <= 4
