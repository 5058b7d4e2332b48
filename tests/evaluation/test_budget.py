"""Upper bounds within a time, which here is the model's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import headstart
from headstart.commands.main import main
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.bound import Bound, bound_into, bound_model, interval
from headstart.evaluation.budget import LEAST, cards
from headstart.evaluation.compare import compare
from headstart.evaluation.estimate import Cost, Pace
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.stored import read_record
from headstart.report import load_run, run_page
from tests.attacks.attack_models import Linear, linear_task
from tests.evaluation.measuring import measure
from tests.evaluation.test_estimate import Ticking
from tests.evaluation.test_interrupted import run

__all__ = ["run"]
THREAT = ThreatModel(2 / 255)
Capture = pytest.CaptureFixture[str]


def bounded(budget: float, n: int = 60, classes: int = 10, seed: int = 0, epsilon: float = 2 / 255) -> Bound:
    model, x, y = linear_task(n, classes=classes)
    ticking = Ticking(model)
    settings = EvaluationSettings(batch_size=30, seed=seed)
    return bound_model(ticking, x, y, ThreatModel(epsilon), settings, budget, clock=ticking.clock)


def test_with_time_for_all_it_is_what_the_attacks_leave() -> None:
    model, x, y = linear_task(6)
    found = bounded(1e9, 6)
    assert found.finished
    assert found.n == found.total == 6
    assert sorted(found.rows) == list(range(6))
    assert found.bound == measure(model, x, y, THREAT, "quick").robust, "there is nothing left for FAB-T and Square"
    assert set(found.attacks) == {"fgsm", "pgd-10", "apgd-ce", "apgd-t", "square", "fab-t"}
    broken = sum(fared["broken"] for fared in found.attacks.values())
    assert found.bound == (6 - broken) / 6 == found.broken_by.count(None) / 6
    assert next(iter(found.attacks)) == "fgsm"


def test_it_stops_at_the_time_and_counts_what_it_did_not_reach_as_standing() -> None:
    short, longer = bounded(3000, 30), bounded(12_000, 30)
    assert not short.finished
    assert 1500 < short.seconds < 3300
    assert short.seconds < longer.seconds < 13_000
    assert longer.bound <= short.bound < short.clean == 1.0
    assert short.n <= longer.n == 30
    assert sum(fared["seconds"] for fared in short.attacks.values()) < short.seconds


def test_time_runs_out_before_any_attack() -> None:
    found = bounded(1.0)
    assert found.attacks == {}
    assert found.bound == found.clean == 1.0
    assert found.n == 1


def test_images_are_dealt_at_random_by_the_seed() -> None:
    first, again, other = bounded(3000, 300), bounded(3000, 300), bounded(3000, 300, seed=1)
    assert first.rows == again.rows
    assert first.broken_by == again.broken_by
    assert first.rows != other.rows
    assert len(set(first.rows)) == first.n < first.total == 300
    assert first.rows != sorted(first.rows)


def test_the_number_dealt_follows_from_the_pace_alone() -> None:
    easy, hard = bounded(3000, 300, epsilon=16 / 255), bounded(3000, 300, epsilon=1e-4)
    assert easy.n == hard.n < 300
    assert easy.bound < hard.bound
    pace = Pace(Cost(0, 1), Cost(0, 3))
    each = 1 + 0.75 * 3 + 0.75 * 30 + 0.6 * 304 + 0.5 * 2737
    assert cards(pace, 1000 * each + 1, 10_000, 10, 250) == 1000
    assert cards(pace, 10**9, 10_000, 10, 250) == 10_000
    assert cards(pace, 10 * each, 10_000, 10, 250) == LEAST
    assert cards(pace, 3400, 10_000, 10, 250) == 100, "a quarter of the time before the attacks"
    assert cards(pace, 0, 10_000, 10, 250) == 1


class Flat(nn.Module):
    """Right of one border, and deaf: no gradient anywhere, so that only queries find it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((127.5 * x).round() / 127.5)


def test_what_breaks_nothing_gives_way_to_what_does() -> None:
    linear, x, _ = linear_task(40, classes=4)
    model = Ticking(Flat(linear))
    y = model(x).argmax(1)
    found = bound_model(model, x, y, ThreatModel(16 / 255), EvaluationSettings(), 1e9, clock=model.clock)
    assert found.attacks["square"]["broken"] > 0
    assert any("no-gradient" in warning for warning in found.warnings)


def test_too_few_classes_for_an_attack_leave_the_others() -> None:
    found = bounded(1e9, 1, classes=3, epsilon=1e-4)
    assert "apgd-t" not in found.attacks
    assert {"apgd-ce", "square"} <= set(found.attacks)


@pytest.mark.parametrize(
    ("standing", "n", "ends"), [(0, 10, (0, 0.308)), (5, 10, (0.187, 0.813)), (450, 1000, (0.419, 0.481))]
)
def test_the_interval_is_clopper_and_pearson_s(standing: int, n: int, ends: tuple[float, float]) -> None:
    assert interval(standing, n) == pytest.approx(ends, abs=5e-4)


# The command, the record and who must not read it ------------------------------------------------------------------


def test_command_record_and_page(run: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(run), "--budget", "2s", "--n", "40", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "upper bound  " in printed
    assert "95 % interval" in printed
    assert "of 40 images, dealt at random" in printed
    assert "not AutoAttack" in printed
    assert not (run / "evaluation.json").exists()
    record = json.loads((run / "bound.json").read_text())
    assert record["kind"] == "upper bound on robust accuracy"
    assert {"robust", "suite"}.isdisjoint(record)
    assert record["request"]["budget"] == "2s"
    assert record["interval"][0] <= record["bound"] <= record["interval"][1]
    (run / "config.yaml").write_text("method: fgsm\n")
    page = run_page([load_run(run)])
    assert "Upper bounds within a time" in page
    assert "No robust accuracy has been measured yet" in page


def test_it_is_never_taken_for_an_evaluation(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    bound_into(path, str(run), budget=1, n=20, device="cpu", progress=False)
    for read in (lambda: read_record(path), lambda: compare(path, path)):
        with pytest.raises(UserError, match=r"b\.json is an upper bound found within a budget, no evaluation"):
            read()
    with pytest.raises(UserError, match=r"evaluation\.json is for the record of a suite; name another file"):
        bound_into(run / "evaluation.json", str(run), budget=1)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--budget soon", "budget is 'soon'; write a time above 0 such as 90s, 10m or 1.5h"),
        (
            "--budget 5m --suite pgd",
            "suite is a setting of a suite; an evaluation by budget does without, leave it out",
        ),
        ("--budget 5m --devices 2", "devices is a setting of a suite"),
        ("--budget 5m --save_examples x.safetensors", "save_examples is a setting of a suite"),
        ("--budget 5m --replay x.json", "budget and replay are given"),
    ],
)
def test_wrong_values_are_refused_in_one_line(run: Path, capsys: Capture, flags: str, line: str) -> None:
    assert main(["evaluate", str(run), *flags.split()]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_what_is_no_classifier_is_refused() -> None:
    x, y = linear_task(4)[1:]
    for network in (nn.Identity(), nn.Flatten(0)):
        with pytest.raises(UserError, match="it must return logits"):
            bound_model(network, x, y, THREAT, EvaluationSettings(), 1.0)


def test_from_python() -> None:
    x, y = linear_task(20)[1:]
    found = headstart.evaluate(
        Linear(10), budget="1s", data=(x, y), epsilon=2 / 255, device="cpu", progress=False, batch_size=10
    )
    assert isinstance(found, Bound)
    assert found.total == 20
    assert found.request is not None
    assert found.request["source"] == "python:Linear"


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    state = torch.get_rng_state()
    bounded(300, 5)
    assert torch.equal(state, torch.get_rng_state())
