"""A small network, images and labels the attack tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from tests.attacks.attack_models import CLASSES, SHAPE


@pytest.fixture
def threat() -> ThreatModel:
    return ThreatModel(8 / 255)


@pytest.fixture
def images() -> Tensor:
    """Random images, some with pixels at the ends of the range."""
    x = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(1))
    x[:10] = x[:10].round()
    return x


@pytest.fixture
def network() -> nn.Module:
    """A convolutional network with batch normalisation and dropout, in evaluation mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        model[-1].weight.mul_(30)  # sharpens the random network, so that classes differ between images
    return model.eval()


@pytest.fixture
def labels(network: nn.Module, images: Tensor) -> Tensor:
    """The network's own predictions, except that the last five images are labelled wrongly."""
    with torch.no_grad():
        y = network(images).argmax(1)
    y[-5:] = (y[-5:] + 1) % CLASSES
    return y
