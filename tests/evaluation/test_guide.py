"""docs/evaluation.md: its costs are those of the attacks, and its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

import headstart
from headstart.core.threat import ThreatModel
from headstart.evaluation.suites import ATTACKS, SUITES, Task
from tests.attacks.attack_models import Linear, linear_task
from tests.attacks.digit_models import EPSILON, held_out, trained
from tests.evaluation.measuring import measure

GUIDE = (Path(headstart.__file__).parents[2] / "docs" / "evaluation.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)


class Counting(nn.Module):
    """A linear model that counts images forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear(10).requires_grad_(False)
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad and torch.is_grad_enabled():
            x = x.clone()
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def test_the_costs_of_the_suites_are_those_of_an_image_that_nothing_breaks() -> None:
    model = Counting()
    x = linear_task(2)[1]
    y = model(x).argmax(1)
    task = Task(model, ThreatModel(1e-4), 10, x.device, alone=False)
    cost: dict[str, tuple[int, int]] = {}
    for name, attack in ATTACKS.items():
        if attack.skipped(task) is None:
            model.forwards = model.backwards = 0
            with torch.random.fork_rng(devices=[]):
                attack.prepare(task)(x, y, Generator().manual_seed(0))
            cost[name] = model.forwards // len(x), model.backwards // len(x)
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]+) \| ([^|]+) \|", GUIDE, re.M)
    assert [name for name, *_ in rows] == list(SUITES)
    for suite, forwards, backwards in rows:
        counted = [sum(cost[name][i] for name in SUITES[suite].attacks if name in cost) for i in (0, 1)]
        said = [int(re.sub(r"\D", "", number)) for number in (forwards, backwards)]
        assert said == pytest.approx(counted, rel=0.1 if "about" in forwards else 0), suite


def test_its_module_moves_normalisation_into_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = held_out(20)
    inner = nn.Sequential(nn.Conv2d(1, 1, 1), trained("pgd-at"))
    with torch.no_grad():
        inner[0].weight.fill_(0.3)
        inner[0].bias.fill_(0.1)
    names = {"torch": torch, "headstart": headstart, "model": inner, "mean": [0.1], "std": [0.3]}
    names |= {"images": x, "labels": y}
    exec(PYTHON[0].replace('suite="quick"', 'suite="fgsm", progress=False'), names)
    assert float(capsys.readouterr().out) > 0.3, "normalised and undone, the network is as it was"


def test_its_lines_verify_saved_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = held_out(40)
    model, threat = trained("pgd-at"), ThreatModel(EPSILON)
    saved = measure(model, x, y, threat, "light", save_examples=Path("worst.safetensors"))
    exec(PYTHON[1], {"torch": torch, "model": model, "images": x, "epsilon": EPSILON})
    assert float(capsys.readouterr().out) == pytest.approx(saved.robust)
    assert 0 < saved.robust < saved.clean


def test_its_attack_by_itself_stays_inside_the_threat_model() -> None:
    x, y = held_out(20)
    names = {"model": trained("pgd-at"), "images": x, "labels": y}
    exec(PYTHON[2], names)
    delta = names["x_adv"] - x
    assert 0 < delta.abs().max() <= 8 / 255 + 1e-6
