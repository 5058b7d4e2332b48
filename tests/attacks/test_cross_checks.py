"""FGSM, PGD and Auto-PGD against implementations that share nothing with ours but the random numbers."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks import fgsm, pgd
from headstart.attacks.autoattack import attack_of
from headstart.core.threat import ThreatModel
from tests.attacks.attack_models import Wrapped
from tests.attacks.digit_models import EPSILON, held_out, trained
from tests.reference import attacks as literal


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fooled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) != y


class Double(Wrapped):
    """In double precision inside, so that one image and several round alike."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.double()).float()


# Literal versions --------------------------------------------------------------------------------------------------


def test_fgsm_agrees_with_the_literal_step(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    network.double()
    x_adv = fgsm(network, images.double(), labels, ThreatModel(8 / 255))
    expected = literal.fgsm(network, images.double(), labels, 8 / 255)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert 5 < fooled(network, expected, labels).sum() < 40


def test_euclidean_pgd_agrees_with_the_literal_steps(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    network.double()
    x, threat = images.double(), ThreatModel(0.15, "l2")
    start = threat.uniform(x, generator=seeded(3))
    x_adv = pgd(network, x, labels, threat, steps=7, alpha=0.04, generator=seeded(3))
    expected = literal.euclidean_pgd(network, x, labels, start, 0.15, 0.04, 7)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-7)
    assert 5 < fooled(network, expected, labels).sum() < 40, "the test needs samples that are frozen and that are not"


def test_apgd_of_autoattack_agrees_with_the_literal_one() -> None:
    """Every verdict, and nearly every image pixel by pixel, on a robust network."""
    model, threat = Double(copy.deepcopy(trained("pgd-at")).double()), ThreatModel(EPSILON)
    x, y = held_out(24)
    right = ~fooled(model, x, y)
    x, y = x[right], y[right]
    x_adv = attack_of("apgd-ce", model, threat, classes=10, seed=5)(x, y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        start = 2 * torch.rand(x.shape) - 1
    falls, expected = literal.auto_pgd(model, x, y, start, EPSILON)
    assert 3 < falls.sum() < len(y) - 3
    assert torch.equal(fooled(model, x_adv, y), falls)
    same = (x_adv - expected).abs().flatten(1).amax(1) < 1e-6
    assert same.float().mean() > 0.8, "a sign near zero may differ in single precision, and the ways part"


# Foolbox -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def foolbox() -> Any:
    try:
        return importlib.import_module("foolbox")
    except ImportError as error:
        pytest.skip(f"foolbox cannot be imported ({error}): pip install foolbox")


def theirs(foolbox: Any, attack: Any, model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    torch.manual_seed(3)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=epsilon)


def test_fgsm_agrees_with_foolbox(foolbox: Any) -> None:
    model, (x, y) = trained("pgd-at"), held_out(200)
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    expected = theirs(foolbox, attack, model, x, y, EPSILON)
    torch.testing.assert_close(fgsm(model, x, y, ThreatModel(EPSILON)), expected)


@pytest.mark.parametrize(("norm", "kind", "epsilon"), [("linf", "LinfPGD", EPSILON), ("l2", "L2PGD", 0.6)])
def test_pgd_agrees_with_foolbox(foolbox: Any, norm: str, kind: str, epsilon: float) -> None:
    """Foolbox moves every sample to the end; ours stay where they first fool the model, or go the same way."""
    model, (x, y) = trained("pgd-at"), held_out(100)
    attack = getattr(foolbox.attacks, kind)(steps=20, abs_stepsize=epsilon / 4, random_start=norm == "linf")
    expected = theirs(foolbox, attack, model, x, y, epsilon)
    threat = ThreatModel(epsilon, norm)
    if norm == "linf":
        x_adv = pgd(model, x, y, threat, steps=20, alpha=epsilon / 4, generator=seeded(3))
        standing = ~fooled(model, x_adv, y)
        assert 10 < standing.sum() < 90
        same = (x_adv - expected)[standing].abs().flatten(1).amax(1) < 1e-5
        assert same.float().mean() > 0.9, "a sign near zero may differ in single precision, and the ways part"
    else:  # the two draw their Euclidean starts differently
        x_adv = pgd(model, x, y, threat, steps=20, alpha=epsilon / 4, generator=seeded(3))
    ours, other = fooled(model, x_adv, y), fooled(model, expected, y)
    assert (ours & ~other).sum() <= 5
    assert (other & ~ours).sum() <= 2
