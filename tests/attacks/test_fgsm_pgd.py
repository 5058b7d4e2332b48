"""FGSM and PGD: the threat model, closed forms, and a literal PGD of one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.attacks import fgsm, pgd
from headstart.attacks.scores import input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from tests.attacks.attack_models import Linear

Attack = Callable[..., Tensor]


def pgd_ce(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    return pgd(model, x, y, threat, steps=5)


def pgd_margin(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    return pgd(model, x, y, threat, steps=5, score="margin", restarts=3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


every_attack = pytest.mark.parametrize("attack", [fgsm, pgd_ce, pgd_margin])


@every_attack
@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_stays_inside_the_threat_model(
    attack: Attack, network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, layout: torch.memory_format
) -> None:
    x = images.contiguous(memory_format=layout)
    x_adv = attack(network.to(memory_format=layout), x, labels, ThreatModel(epsilon))
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert x_adv.is_contiguous(memory_format=layout)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (x_adv - x).abs().max() <= epsilon + 1e-7
    assert (epsilon == 0) == torch.equal(x_adv, x)


@every_attack
def test_touches_nothing_but_its_result(
    attack: Attack, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = images.clone()
    x_adv = attack(network, images, labels, threat)
    assert torch.equal(x, images)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not x_adv.requires_grad


def test_layout_does_not_change_the_result(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    strided = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fgsm(network, strided, labels, threat), fgsm(network, images, labels, threat))


def test_two_class_linear_model_is_attacked_optimally(images: Tensor, threat: ThreatModel) -> None:
    model = Linear(2)
    y = model(images).argmax(1)
    # The margin rises fastest along w_other - w_true, so its sign is the best perturbation, pixel by pixel.
    towards = model.weight.detach()[1 - y] - model.weight.detach()[y]
    best = (images + threat.epsilon * towards.sign().view_as(images)).clamp(0, 1)
    torch.testing.assert_close(fgsm(model, images, y, threat), best)

    # PGD stops at the first success, so it reaches the optimum where there is none, and succeeds where it can be done.
    fooled = margin(model(best), y) > 0
    assert 0 < fooled.sum() < len(y)
    for score in ("ce", "margin"):
        x_adv = pgd(model, images, y, threat, steps=10, score=score)
        torch.testing.assert_close(x_adv[~fooled], best[~fooled])
        assert torch.equal(margin(model(x_adv), y) > 0, fooled)


def test_ten_class_linear_model_is_attacked_optimally_on_the_margin(images: Tensor) -> None:
    model, threat = Linear(10), ThreatModel(2 / 255)
    logits = model(images)
    y = logits.argmax(1)
    towards = model.weight.detach().unsqueeze(0) - model.weight.detach()[y].unsqueeze(1)  # (B, K, D): w_j - w_y
    room_up = (1 - images).clamp(max=threat.epsilon).flatten(1).unsqueeze(1)
    room_down = images.clamp(max=threat.epsilon).flatten(1).unsqueeze(1)
    gain = (towards.clamp(min=0) * room_up - towards.clamp(max=0) * room_down).sum(2)
    fooled = margin(logits + gain, y) > 0
    assert 0 < fooled.sum() < len(y)
    x_adv = pgd(model, images, y, threat, steps=20, alpha=threat.epsilon / 4, score="margin", restarts=5)
    assert torch.equal(margin(model(x_adv), y) > 0, fooled)


def literal_pgd(
    model: nn.Module, x: Tensor, y: int, start: Tensor, epsilon: float, alpha: float, steps: int, score: str
) -> Tensor:
    """One image (C, H, W), as the papers write it: stop when fooled, else step, clip to the ball, clip to the image."""
    x_adv = (x + start).clamp(0, 1)
    for _ in range(steps):
        point = x_adv.clone().requires_grad_()
        logits = model(point.unsqueeze(0))[0]
        if logits.argmax() != y:
            break
        wrong = [logits[j] for j in range(len(logits)) if j != y]
        loss = F.cross_entropy(logits, torch.tensor(y)) if score == "ce" else max(wrong) - logits[y]
        (grad,) = torch.autograd.grad(loss, point)
        x_adv = (x_adv + alpha * grad.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("score", ["ce", "margin"])
def test_agrees_with_a_literal_pgd(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, score: str
) -> None:
    # Convolutions of one image and of forty round differently, and a sign near zero would magnify that.
    network.double()
    x = images.double()
    start = torch.empty_like(x).uniform_(-threat.epsilon, threat.epsilon, generator=seeded(3))
    x_adv = pgd(network, x, labels, threat, steps=7, score=score, generator=seeded(3))
    stopped = 0
    for i in range(len(x)):
        expected = literal_pgd(network, x[i], int(labels[i]), start[i], threat.epsilon, 2 / 255, 7, score)
        torch.testing.assert_close(x_adv[i], expected, rtol=0, atol=1e-6)
        stopped += int(network(expected.unsqueeze(0)).argmax() != labels[i])
    assert 5 < stopped < len(x), "the test needs samples that are frozen and samples that are not"


def test_a_generator_leaves_the_global_one_alone(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    state = torch.get_rng_state()
    runs = [
        pgd(network, images, labels, threat, steps=2, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_restarts_never_weaken_the_attack(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    threat = ThreatModel(3 / 255)
    runs = [pgd(network, images, labels, threat, steps=2, restarts=r, generator=seeded(0)) for r in (1, 2, 6)]
    strengths = [margin(network(x_adv), labels) for x_adv in runs]
    assert (strengths[1] >= strengths[0]).all()
    assert (strengths[2] >= strengths[1]).all()
    assert (strengths[2] > strengths[0]).any()


def test_restarts_stop_when_nothing_is_left(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    wrong = (network(images).argmax(1) + 1) % 10
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    pgd(network, images, wrong, ThreatModel(1 / 255), steps=2, restarts=50)
    assert len(calls) == 3  # two steps, and the look at what is left


def test_margin_is_positive_exactly_where_fooled(images: Tensor) -> None:
    logits = Linear(10)(images)
    y = torch.arange(40) % 10
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_gradient_of_a_sample_does_not_depend_on_the_batch(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    whole, _ = input_gradient(network, images, labels, margin)
    alone, _ = input_gradient(network, images[:1], labels[:1], margin)
    torch.testing.assert_close(whole[:1], alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": 1, "restarts": 0}, "at least 1"),
        ({"steps": 1, "alpha": -0.01}, "alpha"),
        ({"steps": 1, "score": "margn"}, "did you mean 'margin'"),
    ],
)
def test_bad_arguments_are_refused(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pgd(network, images, labels, threat, **arguments)
