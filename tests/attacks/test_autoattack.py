"""AutoAttack through our wrapper against the reference authors' own evaluation."""

from __future__ import annotations

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from headstart.attacks.autoattack import VERSIONS, attack_of, targets
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from tests.evaluation.measuring import measure


def tiny_network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes))
    with torch.no_grad():
        model[-1].weight.mul_(8)
    return model.eval()


@pytest.mark.slow
def test_standard_gives_the_verdicts_of_the_reference_run(images: Tensor) -> None:
    network = tiny_network()
    x = images[:24]
    y = network(x).argmax(1)
    y[-2:] = (y[-2:] + 1) % 10
    epsilon = 8 / 255
    reference = AutoAttack(network, norm="Linf", eps=epsilon, seed=0, version="standard")
    _, predicted = reference.run_standard_evaluation(x, y, batch_size=10)
    robust = predicted == y
    # Channels-last weights give channels-last gradients, which the authors' code alone is not written for.
    result = measure(
        network.to(memory_format=torch.channels_last), x, y, ThreatModel(epsilon), "standard", batch_size=10,
    )  # fmt: skip
    assert [by is None for by in result.broken_by] == robust.tolist()
    assert result.robust == robust.sum().item() / len(x)
    assert 0 < robust.sum() < 22
    assert {"apgd-ce", "apgd-t"} <= set(result.broken_by), "the test needs samples that reach the second attack"


@pytest.mark.parametrize("name", VERSIONS["standard"][:3])
@pytest.mark.parametrize("classes", [4, 5])
def test_few_classes_are_all_targets(name: str, classes: int, images: Tensor) -> None:
    network = tiny_network(classes)
    x = images[:6].contiguous(memory_format=torch.channels_last)
    y = network(x).argmax(1)
    threat = ThreatModel(0.1)
    x_adv = attack_of(name, network, threat, classes=classes)(x, y)
    assert (x_adv - x).abs().max() <= threat.epsilon + 1e-6
    assert (network(x_adv).argmax(1) != y).any()
    assert targets(classes) == classes - 1


def test_ten_classes_and_more_have_nine_targets() -> None:
    assert [targets(10), targets(11), targets(1000)] == [9, 9, 9]


def test_the_seed_decides_and_batches_do_not_share_randomness(images: Tensor) -> None:
    network = tiny_network()
    y = network(images).argmax(1)
    first, again, other = (
        attack_of("apgd-ce", network, ThreatModel(0.03), classes=10, seed=seed)(images, y) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_three_classes_are_refused_for_the_targeted_loss() -> None:
    with pytest.raises(UserError, match="compares four logits and the model has 3 classes; use suite 'pgd'"):
        attack_of("apgd-t", tiny_network(3), ThreatModel(0.01), classes=3)


def test_unknown_attack_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'apgd-t'"):
        attack_of("apgdt", tiny_network(), ThreatModel(0.01), classes=10)
