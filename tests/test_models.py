"""The networks: names and sizes that published weights have, shapes, and what is said of arguments they do not take."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.core.layers import output_layer
from headstart.core.target import Target
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet
from headstart.data import load as data
from headstart.errors import UserError
from headstart.evaluation.search import folded
from headstart.models import MODELS, build_model, check_network, normalization_of, normalized
from headstart.models.fast_net import FastNet
from headstart.training.train import train
from tests.training.runs import tiny

RAW: dict[str, Any] = {"mean": None, "std": None}
NARROW: dict[str, dict[str, Any]] = {
    "small": {"widths": [4, 8]},
    "fast": {"widths": [4, 8], "scale": 1.0},
    "resnet18": {"widths": [4, 4, 8, 8]},
    "resnet34": {"widths": [4, 4, 8, 8]},
    "resnet50": {"widths": [4, 4, 8, 8]},
    "preact-resnet18": {"stem": 4, "widths": [4, 4, 8, 8]},
    "wide-resnet28-10": {"depth": 10, "widen": 1},
    "wide-resnet34-10": {"depth": 16, "widen": 1},
    "imagenet-resnet18": {"widths": [4, 4, 8, 8]} | RAW,
    "imagenet-resnet50": {"widths": [4, 4, 8, 8]} | RAW,
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
        ("imagenet-resnet18", 1000, 11_689_512),
        ("imagenet-resnet50", 1000, 25_557_032),
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


# -- published layouts, written out once more in plain torch ----------------------------------------------------------


class PlainBlock(nn.Module):
    """Of the common CIFAR ResNet-18."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.shortcut = nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class PlainResNet18(nn.Module):
    """The common CIFAR ResNet-18 for 32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(PlainBlock(64, 64, 1), PlainBlock(64, 64, 1))
        self.layer2 = nn.Sequential(PlainBlock(64, 128, 2), PlainBlock(128, 128, 1))
        self.layer3 = nn.Sequential(PlainBlock(128, 256, 2), PlainBlock(256, 256, 1))
        self.layer4 = nn.Sequential(PlainBlock(256, 512, 2), PlainBlock(512, 512, 1))
        self.linear = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(F.avg_pool2d(out, 4).flatten(1))


class PlainWideBlock(nn.Module):
    """Of the WideResNet of TRADES."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(i)
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.same = i == o
        self.convShortcut = None if self.same else nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        x = F.relu(self.bn1(x))
        return self.convShortcut(x) + self.conv2(F.relu(self.bn2(self.conv1(x))))  # type: ignore[misc]


class PlainWideStage(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(PlainWideBlock(i, o, stride), PlainWideBlock(o, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class PlainWideResNet(nn.Module):
    """WideResNet-16-2 of TRADES for 32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1, self.block2 = PlainWideStage(16, 32, 1), PlainWideStage(32, 64, 2)
        self.block3 = PlainWideStage(64, 128, 2)
        self.bn1 = nn.BatchNorm2d(128)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(out)), 8).flatten(1))


class PlainPreActBlock(nn.Module):
    """Of the PreActResNet-18 of Wong et al., whose shortcut reads x itself, or of He et al."""

    def __init__(self, i: int, o: int, stride: int, raw: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(i)
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.raw = raw
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x
        if hasattr(self, "shortcut"):
            skip = self.shortcut(x if self.raw else out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + skip


class PlainPreActResNet18(nn.Module):
    """PreActResNet-18 for 32x32 images."""

    def __init__(self, raw: bool, final_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        widths, strides = [64, 64, 128, 256, 512], [1, 2, 2, 2]
        for s, stride in enumerate(strides):
            i, o = widths[s], widths[s + 1]
            stage = nn.Sequential(PlainPreActBlock(i, o, stride, raw), PlainPreActBlock(o, o, 1, raw))
            setattr(self, f"layer{s + 1}", stage)
        if final_norm:
            self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if hasattr(self, "bn"):
            out = F.relu(self.bn(out))
        return self.linear(F.avg_pool2d(out, 4).flatten(1))


@pytest.mark.parametrize(
    ("name", "args", "plain"),
    [
        ("resnet18", {}, PlainResNet18()),
        ("wide-resnet28-10", {"depth": 16, "widen": 2}, PlainWideResNet()),
        ("preact-resnet18", {}, PlainPreActResNet18(raw=False, final_norm=True)),
        ("preact-resnet18", {"raw_shortcut": True}, PlainPreActResNet18(raw=True, final_norm=True)),
        ("preact-resnet18", {"final_norm": False}, PlainPreActResNet18(raw=False, final_norm=False)),
    ],
)
def test_weights_go_to_and_from_plain_modules(name: str, args: dict[str, Any], plain: nn.Module) -> None:
    """Same names, same function: trained here, used without headstart, and the other way round."""
    network = build_model(name, 10, 3, args)
    network.train()(torch.rand(4, 3, 32, 32))  # statistics of their own
    plain.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), network.eval()(x))
    build_model(name, 10, 3, args).load_state_dict(plain.state_dict())


@pytest.mark.parametrize(("name", "convolutions", "blocks"), [("18", 2, [2, 2, 2, 2]), ("50", 3, [3, 4, 6, 3])])
def test_imagenet_resnets_have_the_names_of_torchvision(name: str, convolutions: int, blocks: list[int]) -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norm)}
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            expected |= {f"{prefix}.conv{i + 1}.weight" for i in range(convolutions)}
            expected |= {f"{prefix}.bn{i + 1}.{part}" for i in range(convolutions) for part in norm}
        if stage > 1 or convolutions == 3:
            projection = f"layer{stage}.0.downsample"
            expected |= {f"{projection}.0.weight", *(f"{projection}.1.{part}" for part in norm)}
    with torch.device("meta"):
        state = build_model(f"imagenet-resnet{name}", 1000, 3, RAW).state_dict()
    assert set(state) == expected
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["fc.weight"].shape == (1000, 512 if convolutions == 2 else 2048)


def test_imagenet_resnets_see_an_image_at_a_32nd_of_its_size() -> None:
    network = build_model("imagenet-resnet50", 5, 3, NARROW["imagenet-resnet50"]).eval()
    sizes: list[torch.Size] = []
    network.layer1.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))  # type: ignore[operator]
    network.layer4.register_forward_hook(lambda *a: sizes.append(a[2].shape))  # type: ignore[operator]
    network(torch.rand(1, 3, 224, 224))
    assert [tuple(size[2:]) for size in sizes] == [(56, 56), (7, 7)]


# -- every network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("pixels", "channels", "classes"), [(8, 1, 3), (32, 3, 10), (64, 3, 200)])
def test_maps_images_of_any_size_to_logits(name: str, pixels: int, channels: int, classes: int) -> None:
    network = build_model(name, classes, channels, NARROW[name]).eval()
    x = torch.rand(2, channels, pixels, pixels)
    with torch.no_grad():
        logits, features = network(x), network.features(x)
        assert logits.shape == (2, classes)
        _, last = output_layer(network)  # type: ignore[misc]
        assert features.shape == (2, last.in_features)
        torch.testing.assert_close(last(features), logits)
        torch.testing.assert_close(network(x[1:]), logits[1:], rtol=1e-4, atol=1e-5)  # images do not meet


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_takes_part(name: str) -> None:
    """A parameter without a gradient would also stop distributed training."""
    network = build_model(name, 10, 3, NARROW[name])
    network(torch.rand(4, 3, 16, 16)).logsumexp(1).sum().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18", "wide-resnet28-10", "imagenet-resnet50"])
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


@pytest.mark.parametrize("name", MODELS)
def test_mirrored_logits_are_means_over_an_image_and_its_mirror_image(name: str) -> None:
    """In evaluation mode alone, under the same names, and also of the copy that attacks search."""
    torch.manual_seed(0)
    plain = build_model(name, 10, 3, NARROW[name])
    network = build_model(name, 10, 3, {**NARROW[name], "mirrored": True})
    network.load_state_dict(plain.state_dict())
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    for _ in range(20):  # statistics of batch-norm
        assert torch.equal(network(x), plain(x))
    plain, network = plain.eval(), network.eval()
    with torch.no_grad():
        one, other = plain(x), plain(x.flip(3))
        assert (one - other).abs().max() > 1e-4
        torch.testing.assert_close(network(x), (one + other) / 2)
        torch.testing.assert_close(network(x.flip(3)), network(x))
    searched = folded(network, x, y, ThreatModel(8 / 255))
    assert searched is not None
    torch.testing.assert_close(searched(x), network(x), rtol=1e-3, atol=1e-4)


def test_imagenet_networks_normalise_unless_told_not_to() -> None:
    with torch.device("cpu"):
        found = normalization_of(build_model("imagenet-resnet18", 3, 3, {"widths": [4, 4, 8, 8]}))
    assert [round(v, 3) for v in found["mean"]] == [0.485, 0.456, 0.406]
    assert normalization_of(build_model("imagenet-resnet18", 3, 3, {"widths": [4, 4, 8, 8]} | RAW)) == {}


class Plain(nn.Module):
    """A network of a user: nothing in it knows of headstart."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.out = nn.Linear(4, classes)
        self.later = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.out(self.body(x).relu().mean((2, 3))))


def test_any_network_can_be_normalised_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    plain = Plain().eval()
    network = normalized(copy.deepcopy(plain), [0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    x = torch.rand(2, 3, 8, 8)
    shifted = (x - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(network(x), plain(shifted))
    assert network.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(copy.deepcopy(network)(x), plain(shifted))  # as the weight average copies it
    torch.testing.assert_close(normalized(network, [0.0] * 3, [1.0] * 3)(x), plain(x))  # replaced, not repeated
    assert normalization_of(network) == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    assert normalization_of(plain) == {}


def test_a_smooth_activation_is_smooth() -> None:
    rough, smooth = (build_model("small", 10, 3, {"widths": [4, 8], "act": act}).eval() for act in ("relu", "silu"))
    smooth.load_state_dict(rough.state_dict())
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    curvatures = []
    for network in (rough, smooth):
        (grad,) = torch.autograd.grad(network(x)[0, 0], x, create_graph=True)
        curvatures.append(bool(grad.requires_grad and torch.autograd.grad(grad.sum(), x)[0].any()))
    assert curvatures == [False, True]


def test_the_first_layer_of_the_fast_network_whitens(digits: ImageSet) -> None:
    """Responses to patches are uncorrelated and, but for the ridge, of deviation 1; each has its opposite."""
    images = digits.tensors()[0][:300].float() / 255
    network = FastNet(10, 1, widths=[4, 8], whiten=True, mean=[0.3], std=[0.5])
    network.initialise_from(images)
    assert not network.patches.weight.requires_grad
    with torch.no_grad():
        made = network.patches((images - 0.3) / 0.5).transpose(0, 1).flatten(1)
    torch.testing.assert_close(made[4:], -made[:4])
    covariance = torch.cov(made[:4])
    assert (covariance.diagonal() > 0.9).all()
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-4, rtol=0)


def test_a_first_layer_that_is_trained_is_not_set() -> None:
    network = FastNet(10, widths=[4, 8], whiten=False)
    before = network.patches.weight.clone()
    network.initialise_from(torch.rand(4, 3, 16, 16))
    assert network.patches.weight.requires_grad
    assert torch.equal(network.patches.weight, before)


def test_logits_of_the_fast_network_are_scaled() -> None:
    torch.manual_seed(0)
    network = FastNet(10, widths=[4, 8], scale=1.0).eval()
    x = torch.rand(2, 3, 16, 16)
    whole = network(x)
    network.scale = 0.25
    torch.testing.assert_close(network(x), whole / 4)


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
        ("resnet18", {"stem": "imagnet"}, "unknown stem 'imagnet'; did you mean 'imagenet'"),
        ("resnet18", {"mean": [0.5] * 3}, "mean and std belong together"),
        ("resnet18", {"mean": [0.5] * 2, "std": [0.5] * 2}, "mean has 2 values and std 2; both need one per channel"),
        ("resnet18", {"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}, "every value must be above 0"),
        ("wide-resnet28-10", {"depth": 30}, r"depth is 30; it must be 6 n \+ 4"),
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


def test_finds_a_network_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\ndef build(classes): return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n"
    (tmp_path / "net_of_mine.py").write_text(code)
    (tmp_path / "broken_net.py").write_text("def build(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert build_model("net_of_mine:build", 3)(torch.rand(2, 3, 2, 2)).shape == (2, 3)
    normalising = build_model("net_of_mine:build", 3, args={"mean": [0.5] * 3, "std": [0.5] * 3})
    assert normalization_of(normalising) == {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(UserError, match=r"model broken_net:build: .*broken_net.py"):
        build_model("broken_net:build", 3)


# -- timm and torchvision ---------------------------------------------------------------------------------------------


def stand_in(origin: str) -> Any:
    """What headstart asks of timm and of torchvision, and no more."""
    if origin == "timm":

        def create_model(name: str, num_classes: int, in_chans: int) -> nn.Module:
            network = Plain(num_classes)
            network.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}  # type: ignore[assignment]
            return network

        return SimpleNamespace(
            is_model=lambda name: name == "resnet26", list_models=lambda: ["resnet26"], create_model=create_model
        )
    models = SimpleNamespace(list_models=lambda module: ["resnet26"])
    models.get_model = lambda name, weights, num_classes: Plain(num_classes)
    return SimpleNamespace(models=models)


@pytest.mark.parametrize(("origin", "mean"), [("timm", [0.5, 0.4, 0.3]), ("torchvision", [0.485, 0.456, 0.406])])
def test_networks_of_others_take_images_as_they_are(
    origin: str, mean: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, origin, stand_in(origin))
    network = build_model(f"{origin}:resnet26", 7)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    torch.testing.assert_close(normalization_of(network)["mean"], mean)
    assert normalization_of(build_model(f"{origin}:resnet26", 7, args=RAW)) == {}
    with pytest.raises(UserError, match=f"{origin} has no network 'resnet62'; did you mean {origin}:resnet26?"):
        build_model(f"{origin}:resnet62", 7)


@pytest.mark.parametrize("origin", ["timm", "torchvision"])
def test_a_missing_extra_is_one_line(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, origin, None)  # type: ignore[arg-type]  # how Python marks what cannot be imported
    with pytest.raises(UserError, match=rf'{origin}:resnet50 needs {origin} .*pip install "headstart\[vision\]"'):
        build_model(f"{origin}:resnet50", 7)


@pytest.mark.parametrize(("origin", "pixels"), [("timm", 64), ("torchvision", 64)])
def test_real_networks_of_others(origin: str, pixels: int) -> None:
    try:
        __import__(origin)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{origin} is not installed, or not for this torch ({str(error).splitlines()[0]})")
    network = build_model(f"{origin}:resnet18", 1000).eval()
    ours = build_model("imagenet-resnet18", 1000).eval()
    ours.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, pixels, pixels)
    with torch.no_grad():
        torch.testing.assert_close(network(x), ours(x))


# -- what methods and training ask of a network -----------------------------------------------------------------------


class Classifies(nn.Module):
    """The linear layers of a network, in the order they are registered in."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class LikeTimm(Classifies):
    def get_classifier(self) -> nn.Module:
        return self.first  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (Classifies(conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 2)), "fc"),
        (Classifies(head=nn.Linear(4, 2), projection=nn.Linear(4, 9)), "head"),
        (Classifies(classifier=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))), "classifier.2"),
        (nn.Sequential(nn.Identity(), Classifies(linear=nn.Linear(4, 2))), "1.linear"),
        (LikeTimm(first=nn.Linear(4, 2), fc=nn.Linear(4, 9)), "first"),
        (LikeTimm(first=nn.Identity(), out=nn.Linear(4, 9)), "out"),
        (Classifies(conv=nn.Conv2d(3, 4, 3)), None),
    ],
)
def test_finds_the_layer_that_makes_the_logits(network: nn.Module, name: str | None) -> None:
    found = output_layer(network)
    assert (found[0] if found else None) == name
    assert found is None or found[1] is network.get_submodule(found[0])


@pytest.mark.parametrize("name", ["resnet18", "wide-resnet28-10", "imagenet-resnet18"])
def test_records_what_the_last_layer_reads(name: str) -> None:
    network = build_model(name, 10, 3, NARROW[name])
    target = Target(network)
    target.record_features()
    x = torch.rand(2, 3, 16, 16)
    target(x, batch_norm="eval")
    assert target.features is not None
    torch.testing.assert_close(target.features, network.features(x))  # type: ignore[operator]


@pytest.mark.parametrize("method", ["fgsm-law", "fgsm-fuap"])
def test_methods_that_read_features_train_networks_with_other_names(method: str, tmp_path: Path) -> None:
    """The last layer of a wide network is called fc."""
    recipe = tiny(method, model="wide-resnet28-10", model_args={"depth": 10, "widen": 1}, max_steps=2, epochs=1)
    run = train(recipe, tmp_path / "run", data=data("digits", "train").take(slice(0, 200), "some"), progress=False)
    assert all(p.isfinite().all() for p in run.model.parameters())
    assert run.cost["updates"] == 2


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Conv2d(3, 5, 1), r"maps two images to \(2, 5, 8, 8\); mine has 5 classes, so logits \(2, 5\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), r"maps two images to \(2, 4\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(190, 5)),
            r"does not take images of shape \(3, 8, 8\), as in mine: mat1",
        ),
        (nn.LSTM(8, 5), "does not take images"),
    ],
)
def test_a_network_must_return_logits(network: nn.Module, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_network(network, (3, 8, 8), 5, "mine")


def test_a_network_that_returns_no_tensor() -> None:
    class Pair(Plain):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(UserError, match="maps two images to tuple"):
        check_network(Pair(), (3, 8, 8), 3, "mine")
    check_network(Plain(), (3, 8, 8), 3, "mine")
