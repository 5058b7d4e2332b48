"""Accuracies during training, and what counts as a collapse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.collapse import collapsed
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet
from headstart.training.monitor import Monitor


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
