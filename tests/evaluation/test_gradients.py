"""The gradient beside finite differences: right for every network that ships, whatever it is made of."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.evaluation.gradients import examine
from headstart.evaluation.probe import probe
from headstart.evaluation.search import Bfloat16
from headstart.evaluation.warnings import warnings_of_forward, warnings_of_gradients
from headstart.models import MODELS, build_model
from tests.attacks.attack_models import BatchStatistics, Linear, Noisy, Wrapped, linear_task
from tests.evaluation.dishonest import Negated, StraightThrough
from tests.evaluation.measuring import measure

THREAT = ThreatModel(8 / 255)


def warned(model: nn.Module, x: Tensor, y: Tensor, searched: nn.Module | None = None) -> list[str]:
    """All that is said before the attacks."""
    found = examine(model, searched or model, x, y, THREAT, seed=0)
    return [*warnings_of_forward(probe(model, x, y)), *warnings_of_gradients(found, "bf16")]


NARROW: dict[str, dict[str, Any]] = {
    "resnet": {"widths": [8, 16, 32, 64]},
    "imagenet": {"widths": [8, 16, 32, 64]},
    "wide": {"widen": 1},
    "fast": {"widths": [8, 16, 16]},
}
"""Arguments that make networks of these families cheap; at full width they are sound as well."""


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_networks_that_ship_are_sound_before_training(name: str, mirrored: bool) -> None:
    torch.manual_seed(0)
    side = 32 if name.startswith(("imagenet", "fast")) else 8
    family = re.match("[a-z]+", name)
    args = {**(NARROW.get(family[0], {}) if family else {}), "mirrored": mirrored}
    network = build_model(name, 10, 3, args).requires_grad_(False)
    if name == "fast":  # its scaled logits are too small indeed before batch-norm has seen anything
        for _ in range(50):
            network(torch.rand(8, 3, side, side))
    network.eval()
    x = torch.rand(2, 3, side, side)
    y = network(x).argmax(1)
    assert warned(network, x, y, Bfloat16(network)) == []


def kinks() -> nn.Module:
    """Max-pooling, clipping, sorting and leaky slopes behind a normalisation."""
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 2), nn.ReLU6(),
        nn.LeakyReLU(), nn.Hardtanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.ELU(),
    ).eval()  # fmt: skip


class InFloat32(Wrapped):
    """A model that casts its input, of which there is no float64 copy."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.float())


class Uncopyable(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def __deepcopy__(self, memo: object) -> Uncopyable:
        raise TypeError("there is only one")


@pytest.mark.parametrize("wrapper", [nn.Sequential, InFloat32, Uncopyable, StraightThrough])
@pytest.mark.parametrize("grey", [False, True])
def test_kinks_and_saturated_pixels_are_no_fault(wrapper: type[nn.Module], grey: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(20, 3, 8, 8)
    x = (255 * x).round() / 255 if grey else (3 * x - 1).clamp(0, 1)
    network = wrapper(kinks()).requires_grad_(False)
    y = network(x).argmax(1)
    assert warned(network.eval(), x, y, Bfloat16(network)) == []


@pytest.mark.parametrize("wrapper", [nn.Sequential, InFloat32, Uncopyable])
def test_a_negated_gradient_is_seen_with_and_without_a_float64_copy(wrapper: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.rand(20, 3, 8, 8)
    network = Negated(wrapper(kinks())).eval().requires_grad_(False)
    found = examine(network, network, x, network(x).argmax(1), THREAT, seed=0)
    assert found.along == pytest.approx(-1, abs=0.1)
    assert found.searched == 1.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_is_what_its_gradient_says(norm: str) -> None:
    model, x, y = linear_task(20)
    found = examine(model.requires_grad_(False), model, x, y, ThreatModel(0.1, norm), seed=0)
    assert found.along == pytest.approx(1, abs=1e-6)
    assert 0.3 < found.across < 3
    assert (found.jumps, found.inference) == (False, True)


def test_one_image_without_room_and_without_epsilon() -> None:
    model = Linear(10).requires_grad_(False)
    x = torch.ones(1, 3, 8, 8)
    found = examine(model, model, x, model(x).argmax(1), ThreatModel(0), seed=0)
    assert found.along == pytest.approx(1, abs=1e-6)
    assert not found.jumps


class Counting(Wrapped):
    passes: list[tuple[int, torch.dtype]]

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append((len(x), x.dtype))
        return self.model(x)

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        twin = Counting(copy.deepcopy(self.model, memo))
        twin.passes = self.passes
        return twin


def test_it_costs_what_is_documented_and_leaves_all_as_it_was() -> None:
    linear = Linear(10).requires_grad_(False)
    model = Counting(linear)
    model.passes = []
    x = linear_task(100)[1]
    y = Linear(10)(x).argmax(1)
    state, weight = torch.get_rng_state(), linear.weight.clone()
    examine(model, model, x, y, THREAT, seed=0)
    assert sum(n for n, _ in model.passes) == 256, "a choice among 32 images, and fourteen passes of sixteen points"
    assert sum(n for n, dtype in model.passes if dtype == torch.float64) == 176
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(weight, linear.weight)
    assert linear.weight.dtype == torch.float32


@pytest.mark.parametrize("wrapper", [Noisy, BatchStatistics])
def test_differences_are_not_taken_where_they_mean_nothing(wrapper: type[Wrapped]) -> None:
    model, x, y = linear_task(20)
    warnings = measure(wrapper(model), x, y, THREAT, "fgsm").warnings
    assert not any("gradient" in warning.partition("[")[2] for warning in warnings)
