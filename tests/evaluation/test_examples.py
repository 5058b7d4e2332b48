"""``headstart.attack``: examples of one attack, as a user asks for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import headstart
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.evaluate import evaluate_model
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.suites import ATTACKS
from tests.attacks.attack_models import linear_task

CHEAP = ("fgsm", "pgd-10", "cw-20")


@pytest.fixture
def task() -> tuple[nn.Module, Tensor, Tensor]:
    return linear_task(12)


@pytest.mark.parametrize("name", [*CHEAP, pytest.param("apgd-t", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_fool_the_model_inside_the_ball(name: str, norm: str, task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = task
    epsilon = 0.2 if norm == "linf" else 2.0
    model.train()
    before = torch.get_rng_state()
    x_adv = headstart.attack(model, x, y, name, epsilon=epsilon, norm=norm)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    delta = (x_adv - x).flatten(1)
    assert (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)).max() <= epsilon + 1e-5
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    with torch.no_grad():
        assert (model(x_adv).argmax(1) == y).float().mean() < (model(x).argmax(1) == y).float().mean()
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_they_are_those_of_an_evaluation(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    """FGSM has no random numbers: the accuracy on its examples is the one that ``evaluate`` measures."""
    model, x, y = task
    x_adv = headstart.attack(model, x, y, "fgsm", epsilon="8/255", batch_size=5)
    with torch.no_grad():
        right = ((model(x_adv).argmax(1) == y) & (model(x).argmax(1) == y)).float().mean().item()
    found = evaluate_model(model, x, y, ThreatModel(8 / 255), EvaluationSettings(suite="fgsm"), progress=False)
    assert right == pytest.approx(found.attacks["fgsm"])


def test_uint8_images_and_seeds(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = task
    pixels = (255 * x).to(torch.uint8)
    a, b, c = (headstart.attack(model, pixels, y, "pgd-10", epsilon=0.1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "apgd_t"}, "unknown attack 'apgd_t'; did you mean 'apgd-t'"),
        ({"epsilon": -1}, "epsilon"),
        ({"norm": "l3"}, "l3"),
        ({"name": "transfer"}, "attack transfer needs a second model"),
        ({"name": "cr", "norm": "l2"}, "attack cr is for norm linf; choose another"),
    ],
)
def test_wrong_input(changes: dict[str, object], said: str, task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = task
    arguments = {"name": "fgsm", "epsilon": 0.1} | changes
    with pytest.raises(UserError, match=said):
        headstart.attack(model, x, y, **arguments)  # type: ignore[arg-type]


def test_every_attack_has_a_name_here() -> None:
    assert {"fgsm", "pgd-20", "apgd-ce", "apgd-t", "fab-t", "square", "cr"} <= ATTACKS.keys()
