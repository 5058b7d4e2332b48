"""The attacks as a user has them: one signature, inside the threat model, and the model left as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from headstart import attacks
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError
from tests.attacks.attack_models import linear_task

Attack = Callable[..., Tensor]
SETTINGS: dict[str, dict[str, int]] = {"autoattack": {}, "cr_attack": {"rounds": 1}, "fgsm": {}, "pgd": {"steps": 20}}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "autoattack" else name for name in SETTINGS]


def test_every_public_attack_has_the_same_signature() -> None:
    assert set(SETTINGS) == set(attacks.__all__)
    for name in attacks.__all__:
        parameters = inspect.signature(getattr(attacks, name)).parameters.values()
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["model", "x", "y", "threat"]


@pytest.mark.parametrize(
    ("name", "norm"),
    [  # AutoAttack in l2 has a test with the suites
        *(("fgsm", norm) for norm in ("linf", "l2")),
        *(("pgd", norm) for norm in ("linf", "l2")),
        *(("cr_attack", norm) for norm in ("linf", "l2")),
        pytest.param("autoattack", "linf", marks=pytest.mark.slow),
    ],
)
def test_it_fools_the_model_inside_the_threat_model(name: str, norm: str) -> None:
    model, x, y = linear_task(12)
    y[:2] = (y[:2] + 1) % 10  # wrong without attack
    threat = ThreatModel(2 / 255 if norm == "linf" else 0.06, norm)
    if name == "cr_attack" and norm == "l2":
        with pytest.raises(SettingError, match="is for norm linf"):
            attacks.cr_attack(model, x, y, threat)
        return
    x_adv = getattr(attacks, name)(model, x, y, threat, **SETTINGS[name])
    assert x_adv.shape == x.shape
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (threat.size(x_adv - x) <= threat.epsilon * (1 + 1e-5) + 1e-7).all()
    right = (model(x_adv).argmax(1) == y).sum()
    assert 0 < right < 10


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    network[0].weight.requires_grad_(False)
    asks = [p.requires_grad for p in network.parameters()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = images[:6].clone()
    getattr(attacks, name)(network, x, labels[:6], ThreatModel(0.3), **SETTINGS[name])  # where attacks end soon
    assert torch.equal(x, images[:6])
    assert not network.training
    assert [p.requires_grad for p in network.parameters()] == asks
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_autoattack_leaves_the_random_state_and_what_withstands_it(images: Tensor) -> None:
    model, x, y = linear_task(8)
    state = torch.get_rng_state()
    x_adv = attacks.autoattack(model, x, y, ThreatModel(1 / 255), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    stands = model(x_adv).argmax(1) == y
    assert 0 < stands.sum() < 8
    assert torch.equal(x_adv[stands], x[stands])
    assert torch.equal(attacks.autoattack(model, x, y, ThreatModel(1 / 255), seed=1), x_adv)
    with pytest.raises(SettingError, match="unknown version of AutoAttack 'plus'"):
        attacks.autoattack(model, x, y, ThreatModel(0.1), version="plus")


def test_the_step_of_pgd_follows_epsilon() -> None:
    model, x, y = linear_task(10)
    small, large = ThreatModel(0.4 / 255), ThreatModel(64 / 255)
    for threat in (small, large):
        draw = [torch.Generator().manual_seed(0) for _ in range(2)]
        usual = attacks.pgd(model, x, y, threat, steps=3, generator=draw[0])
        told = attacks.pgd(model, x, y, threat, steps=3, alpha=threat.epsilon / 4, generator=draw[1])
        assert torch.equal(usual, told)
