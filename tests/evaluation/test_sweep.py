"""The sweep over epsilon: what falls stays fallen, honest models end at zero, masked ones are warned of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headstart.commands.main import main
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.sweep import Sweep, sweep, sweep_model
from headstart.training.train import train
from tests.evaluation.measuring import measure
from tests.training.runs import tiny


class Line(nn.Module):
    """Two classes, divided where the mean of the pixels is one half: the margin of an image is its distance from it."""

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1).mean(1)
        return torch.stack([-score, score], 1)


class Rounded(Line):
    """The same on rounded pixels, which let no gradient through."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 15).round() / 15)


DISTANCES = [-0.01, 0.005, 0.03, 0.05, 0.07, 0.09, 0.15, 0.25]  # from the line; the first is on the wrong side


def task() -> tuple[Tensor, Tensor]:
    x = torch.stack([torch.full((1, 4, 4), 0.5 + distance) for distance in DISTANCES])
    return x, torch.ones(len(x), dtype=torch.int64)


def swept(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, suite: str = "pgd") -> Sweep:
    return sweep_model(model, x, y, threat, EvaluationSettings(suite=suite), progress=False)


def test_every_image_falls_at_the_first_epsilon_beyond_its_distance() -> None:
    result = swept(Line(), *task(), ThreatModel(0.08))
    sizes = [0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32]
    assert result.epsilons == pytest.approx([0.0, *sizes])
    expected = [0.0] + [min(size for size in sizes if size > distance) for distance in DISTANCES[1:]]
    assert result.broken_at == pytest.approx(expected)
    assert result.accuracies == [7 / 8, 6 / 8, 6 / 8, 5 / 8, 3 / 8, 2 / 8, 1 / 8, 1 / 8, 0]
    assert "reach" not in "".join(result.warnings)
    assert json.loads(json.dumps(result.to_json())) == result.to_json()


def test_the_accuracy_at_the_model_s_epsilon_is_that_of_the_suite() -> None:
    x, y = task()
    result = swept(Line(), x, y, ThreatModel(0.08), "fgsm")
    alone = measure(Line(), x, y, ThreatModel(0.08), "fgsm")
    assert result.accuracies[result.epsilons.index(0.08)] == alone.robust
    assert result.accuracies[0] == alone.clean


def test_in_the_maximum_norm_no_size_is_beyond_the_whole_range() -> None:
    most = swept(Line(), *task(), ThreatModel(0.4), "fgsm")
    assert most.epsilons[-3:] == pytest.approx([0.6, 0.8, 1.0])
    euclidean = swept(Line(), *task(), ThreatModel(1.0, "l2"), "fgsm")
    assert euclidean.epsilons[-1] == 4.0
    assert euclidean.norm == "l2"


def test_attacks_that_fail_at_any_size_are_warned_of() -> None:
    result = swept(Rounded(), *task(), ThreatModel(0.08))
    assert result.accuracies[-1] > 0.25
    assert result.broken_at.count(None) == result.accuracies[-1] * 8
    assert "at epsilon 0.32, 4 times the model's own, " in result.warnings[-1]
    assert result.warnings[-1].endswith("[docs/evaluation.md#accuracy-that-does-not-reach-zero]")
    assert any("the gradient is zero" in warning for warning in result.warnings), "and the reason is said too"


def test_an_epsilon_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="epsilon is 0; a sweep needs one above 0"):
        swept(Line(), *task(), ThreatModel(0.0))


def test_the_command_sweeps_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = train(tiny(epochs=1), tmp_path / "run", progress=False).out
    assert main(["sweep", str(run_folder), "--suite", "fgsm", "--n", "20"]) == 0
    printed = capsys.readouterr().out.splitlines()
    record = json.loads((run_folder / "sweep.json").read_text())
    assert record["n"] == len(record["broken_at"]) == 20
    assert [float(line.split()[0]) for line in printed[1:10]] == pytest.approx(record["epsilons"], abs=1e-4)
    assert record["accuracies"] == sorted(record["accuracies"], reverse=True)
    assert any("20 of " in warning for warning in record["warnings"])
    assert sweep(run_folder, suite="fgsm", n=20, progress=False).broken_at == record["broken_at"]


def test_settings_that_a_sweep_does_without_are_refused() -> None:
    with pytest.raises(UserError, match="devices is a setting of an evaluation, not of a sweep"):
        sweep(Line(), data="digits", epsilon=0.1, devices=2)
