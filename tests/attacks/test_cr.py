"""The constraint-relaxation attack against a literal version of it, and against PGD on a robust model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks import pgd
from headstart.attacks.cr import cr_attack
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from tests.attacks.digit_models import EPSILON, held_out, trained
from tests.reference.attacks import constraint_relaxation


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def test_agrees_with_the_literal_attack(
    network: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    epsilon = 4.5 / 255
    # In double precision: a sign near zero would magnify what one image and several round differently.
    network.double()
    x, y = images[18:].double(), labels[18:]  # the last five are labelled wrongly
    x_adv = cr_attack(network, x, y, ThreatModel(epsilon), rounds=2, generator=seeded(3))
    expected = constraint_relaxation(network, x, y, epsilon, 10, seeded(3), rounds=2)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-9)
    monkeypatch.setattr("headstart.attacks.cr.ITERATIONS", 0)  # leaves the short PGD with which the attack begins
    short = cr_attack(network, x, y, ThreatModel(epsilon), generator=seeded(3))
    fooled, quick = ~right(network, expected, y), ~right(network, short, y)
    assert quick.sum() < fooled.sum() < len(y), "the test needs samples that fall early, late and never"
    assert torch.equal(x_adv[-5:], x[-5:]), "what is wrong when clean is not attacked"


def test_is_at_least_as_strong_as_long_pgd_on_a_robust_model() -> None:
    model, threat = trained("pgd-at"), ThreatModel(EPSILON)
    x, y = held_out(80)
    long_pgd = right(model, pgd(model, x, y, threat, steps=50, alpha=EPSILON / 4, generator=seeded(0)), y)
    relaxed = right(model, cr_attack(model, x, y, threat, generator=seeded(0)), y)
    assert 0.2 < relaxed.float().mean() <= long_pgd.float().mean()
    assert long_pgd.float().mean() < right(model, x, y).float().mean() - 0.1


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3])
def test_stays_inside_the_threat_model(network: nn.Module, images: Tensor, classes: int, epsilon: float) -> None:
    few = nn.Sequential(network, Columns(classes))
    y = few(images).argmax(1)
    state = torch.get_rng_state()
    x_adv = cr_attack(few, images, y, ThreatModel(epsilon), rounds=1, generator=seeded(0))
    assert torch.equal(state, torch.get_rng_state())
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (x_adv - images).abs().max() <= epsilon + 1e-7
    assert (epsilon == 0) == torch.equal(x_adv, images)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


class Columns(nn.Module):
    """The first logits only."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, : self.classes]


def test_images_that_are_misclassified_cost_one_pass(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    wrong = (network(images).argmax(1) + 1) % 10
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(cr_attack(network, images, wrong, ThreatModel(0.1)), images)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("threat", "rounds", "said"),
    [
        (ThreatModel(0.5, "l2"), 5, "the CR attack is for norm linf, not 'l2'"),
        (ThreatModel(0.1), 0, "the CR attack has 0 rounds; it must have at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, rounds: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        cr_attack(network, images, labels, threat, rounds=rounds)
