"""The networks: names and sizes that published weights have, shapes, and what is said of arguments they do not take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from headstart.errors import UserError
from headstart.models import MODELS, build_model

NARROW: dict[str, dict[str, Any]] = {
    "small": {"widths": [4, 8]},
    "resnet18": {"widths": [4, 4, 8, 8]},
    "resnet34": {"widths": [4, 4, 8, 8]},
    "resnet50": {"widths": [4, 4, 8, 8]},
    "preact-resnet18": {"stem": 4, "widths": [4, 4, 8, 8]},
    "wide-resnet28-10": {"stem": 4, "widths": [4, 8, 8]},
    "wide-resnet34-10": {"stem": 4, "widths": [4, 8, 8]},
}


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet18", 200, 11_173_962 + 190 * 513),
        ("resnet34", 10, 21_282_122),
        ("resnet50", 10, 23_520_842),
        ("preact-resnet18", 10, 11_172_170),
        ("wide-resnet28-10", 10, 36_479_194),
        ("wide-resnet34-10", 10, 46_160_474),
    ],
)
def test_has_the_size_that_is_published(name: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build_model(name, classes)
    assert size(network) == parameters


def test_resnet18_has_the_usual_names() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{part}" for part in norm)}
    for stage in range(1, 5):
        for block in range(2):
            prefix = f"layer{stage}.{block}"
            expected |= {f"{prefix}.conv{i}.weight" for i in (1, 2)}
            expected |= {f"{prefix}.bn{i}.{part}" for i in (1, 2) for part in norm}
        if stage > 1:
            expected |= {f"layer{stage}.0.shortcut.0.weight", *(f"layer{stage}.0.shortcut.1.{part}" for part in norm)}
    state = build_model("resnet18", 10).state_dict()
    assert set(state) == expected
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["layer2.0.shortcut.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["linear.weight"].shape == (10, 512)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("pixels", "channels", "classes"), [(8, 1, 3), (32, 3, 10), (64, 3, 200)])
def test_maps_images_of_any_size_to_logits(name: str, pixels: int, channels: int, classes: int) -> None:
    network = build_model(name, classes, channels, NARROW[name]).eval()
    x = torch.rand(2, channels, pixels, pixels)
    with torch.no_grad():
        logits, features = network(x), network.features(x)
        assert logits.shape == (2, classes)
        assert features.shape == (2, network.linear.in_features)
        torch.testing.assert_close(network.linear(features), logits)
        torch.testing.assert_close(network(x[1:]), logits[1:], rtol=1e-4, atol=1e-5)  # images do not meet


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_takes_part(name: str) -> None:
    """A parameter without a gradient would also stop distributed training."""
    network = build_model(name, 10, 3, NARROW[name])
    network(torch.rand(4, 3, 16, 16)).logsumexp(1).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18"])
def test_normalisation_is_the_first_layer_and_not_in_the_state(name: str) -> None:
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    plain = build_model(name, 10, 3, NARROW[name]).eval()
    normalised = build_model(name, 10, 3, {**NARROW[name], "mean": mean, "std": std}).eval()
    assert set(normalised.state_dict()) == set(plain.state_dict())
    normalised.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 8, 8)
    shifted = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalised(x), plain(shifted))
    assert not torch.allclose(normalised(x), plain(x))


def test_a_smooth_activation_is_smooth() -> None:
    rough, smooth = (build_model("small", 10, 3, {"widths": [4, 8], "act": act}).eval() for act in ("relu", "silu"))
    smooth.load_state_dict(rough.state_dict())
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    curvatures = []
    for network in (rough, smooth):
        (grad,) = torch.autograd.grad(network(x)[0, 0], x, create_graph=True)
        curvatures.append(bool(grad.requires_grad and torch.autograd.grad(grad.sum(), x)[0].any()))
    assert curvatures == [False, True]


def test_final_norm_can_be_left_out() -> None:
    """As the preactivation network of the FastAT benchmark has it."""
    state = build_model("preact-resnet18", 10, 3, {**NARROW["preact-resnet18"], "final_norm": False}).state_dict()
    assert not [name for name in state if name.startswith("bn.")]
    assert [n for n in build_model("preact-resnet18", 10, 3, NARROW["preact-resnet18"]).state_dict() if n[:3] == "bn."]


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("resnet19", {}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ("resnet18", {"width": 3}, "model resnet18: .*width"),
        ("resnet18", {"act": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ("resnet18", {"blocks": [2, 2]}, "model resnet18: "),
        ("headstart.models:build_modle", {}, "model headstart.models:build_modle: "),
        ("headstart.modles:build_model", {}, "No module named"),
        (":build_model", {}, "model :build_model: "),
        ("headstart.models:build_model", {"naem": "small"}, "called with classes=10"),
        ("builtins:dict", {}, "returned dict; it must return a torch.nn.Module"),
    ],
)
def test_says_what_it_cannot_build(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_model(name, 10, 3, args)


def test_builds_networks_of_ones_own() -> None:
    network = build_model("headstart.models:build_model", 7, args={"name": "small"})
    assert network.linear.out_features == 7
