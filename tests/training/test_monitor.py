"""Accuracies during training, and what counts as a collapse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.alignment import local_linearity
from headstart.attacks.collapse import collapsed
from headstart.attacks.pgd import pgd
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet
from headstart.training.monitor import LINEARITY, Monitor
from tests.helpers import tiny_net


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [
        (0.9, 0.0, True),
        (0.9, 0.29, True),
        (0.9, 0.31, False),  # a third of the accuracy is left
        (0.14, 0.0, False),  # too few points to tell it from a weak network
        (0.16, 0.0, True),
        (0.0, 0.0, False),
        (0.4, 0.45, False),
    ],
)
def test_collapsed(fgsm: float, pgd: float, expected: bool) -> None:
    assert collapsed({"clean": 0.95, "fgsm": fgsm, "pgd": pgd}) is expected


def test_monitor_measures_what_the_attacks_do(digits: ImageSet) -> None:
    """A network that answers with the brightest of ten pixels: FGSM and PGD can be told in advance."""

    class Brightest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    images = torch.zeros(20, 2, 5, 1, dtype=torch.uint8)
    images.view(20, 10)[:, 3] = torch.tensor([255] * 10 + [51] * 10)  # half of them by 1, half by 0.2
    data = ImageSet(images, torch.full((20,), 3), tuple("0123456789"), "pixels")
    network = Brightest().train()
    state = torch.get_rng_state()
    measured = Monitor(data, torch.device("cpu"), batch_size=8).measure(network, ThreatModel(0.15))
    assert measured == {"n": 20, "clean": 1.0, "fgsm": 0.5, "pgd": 0.5}
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)


class Counted(nn.Module):
    """A network that counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_net(classes=10)
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        logits: Tensor = self.network(x)
        return logits


def test_fooled_images_are_searched_no_further(digits: ImageSet) -> None:
    """The accuracies are those of an attack that looks at every image to the end."""
    torch.manual_seed(0)
    network, threat = Counted().eval(), ThreatModel(0.02)
    images = digits.images.expand(-1, -1, -1, 3)
    data = ImageSet(images, torch.zeros(len(images), dtype=torch.int64), digits.classes, "digits")
    monitor = Monitor(data, torch.device("cpu"), batch_size=len(data))
    x = monitor.images.float().div(255).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        logits = network(x)
        network.network.linear.bias -= logits.mean(0)  # all classes among its answers, which are the labels
        monitor.labels = y = network(x).argmax(1)
    network.images = 0
    found = monitor.measure(network, threat)
    every = len(data) * (1 + 10 + 3)
    assert 0.4 * every < network.images < 0.95 * every
    x_adv = pgd(network, x, y, threat, steps=10, alpha=0.005, generator=torch.Generator().manual_seed(0))
    standing = int((network(x_adv).argmax(1) == y).sum())
    assert found["clean"] == 1
    assert 0.2 < standing / len(data) < 0.8
    assert found["pgd"] == pytest.approx(standing / len(data), abs=1e-9)


def test_validation_measures_linearity_and_disturbs_nothing(digits: ImageSet) -> None:
    """The accuracies are those of ``measure``, the linearity that of the attacks' module on the first images."""
    network = tiny_net(classes=10).train()
    data = ImageSet(digits.images.expand(-1, -1, -1, 3), digits.labels, digits.classes, "digits")
    monitor, threat = Monitor(data, torch.device("cpu")), ThreatModel(0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    found = monitor.validate(network, threat)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert network.training
    assert {key: found[key] for key in ("n", "clean", "fgsm", "pgd")} == monitor.measure(network, threat)
    x, y = monitor.images[:LINEARITY], monitor.labels[:LINEARITY]
    x = x.contiguous(memory_format=torch.channels_last)  # in which order random numbers are laid out
    draw = torch.Generator().manual_seed(1)
    expected = local_linearity(network.eval(), x.float() / 255, y, threat, draw).mean().item()
    assert found["linearity"] == pytest.approx(expected, abs=1e-5)
