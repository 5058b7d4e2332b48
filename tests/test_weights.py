"""Weights from files of any origin: what loads and what it becomes, what is refused, and what training starts from."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headstart import train as train_from_python
from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.evaluation.evaluate import evaluate
from headstart.models import build_model, normalization_of, normalized
from headstart.recipes.reader import load_recipe
from headstart.runs.classifier import load_classifier, read_weights
from headstart.training.train import train
from tests.training.runs import tiny

ARGS = {"widths": [4, 8]}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
ORIGIN = {
    "model": "small",
    "model_args": json.dumps(ARGS),
    "classes": json.dumps(["a", "b", "c"]),
    "channels": "3",
    "data": "elsewhere",
    "epsilon": "0.1",
    "norm": "linf",
}


def small(classes: int = 3, **args: Any) -> nn.Module:
    return build_model("small", classes, 3, ARGS | args)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return small()


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    """A file as training writes it."""
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path, ORIGIN)
    return path


def stored(content: Any, folder: Path, name: str = "weights.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def load(path: Path, classes: int = 3, **settings: Any) -> nn.Module:
    given: dict[str, Any] = {"model": "small", "model_args": ARGS, "classes": classes}
    return load_classifier(path, **(given | settings)).network


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def pictures(classes: int, n: int = 96) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 8, 8, 3), generator=draw, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % classes, tuple("abcdefghij"[:classes]), "pictures")


# -- what loads -------------------------------------------------------------------------------------------------------


def test_loads_what_training_writes(network: nn.Module, weights: Path) -> None:
    for source in (weights, str(weights), weights.parent):
        loaded = load_classifier(source)
        assert equal(loaded.network, network)
        assert loaded.origin["epsilon"] == "0.1"


PREFIXES = ["", "module.", "model.", "1.", "module.backbone.", "module.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_loads_plain_weights(network: nn.Module, tmp_path: Path, prefix: str, ending: str) -> None:
    state = OrderedDict((prefix + name, tensor) for name, tensor in network.state_dict().items())
    path = tmp_path / f"weights{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    assert equal(load(path), network)
    with pytest.raises(UserError, match=r"does not say which network .* give its name as model"):
        load_classifier(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"net": state, "acc": 91.2},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
        lambda state: {"network": state, "format": 1, "clock": {"update": 3}},  # checkpoints/last.pt
    ],
)
def test_loads_weights_under_a_key(network: nn.Module, tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    assert equal(load(stored(wrap(network.state_dict()), tmp_path)), network)


@pytest.mark.parametrize(
    ("mean", "std", "prefix", "shape"),
    [
        ("0.mean", "0.std", "1.", (1, 3, 1, 1)),
        ("module.normalize.mean", "module.normalize.std", "module.model.", (3,)),
        ("normalizer.new_mean", "normalizer.new_std", "model.", (3, 1, 1)),
        ("mu", "sigma", "", (3, 1, 1)),
        ("normalize.mean", "normalize.std", "", (1, 3, 1, 1)),
    ],
)
def test_a_normalisation_in_the_file_becomes_the_first_layer(
    mean: str,
    std: str,
    prefix: str,
    shape: tuple[int, ...],
    network: nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    state |= {mean: torch.tensor(MEAN).view(shape), std: torch.tensor(STD).view(shape)}
    path = stored({"state_dict": state}, tmp_path)
    loaded = load(path).eval()
    x = torch.rand(2, 3, 8, 8)
    shifted = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network.eval()(shifted))
    said = f"{path}: normalisation (mean [0.5, 0.4, 0.3], std [0.2, 0.25, 0.3]) becomes the network's first layer"
    assert caplog.messages == [said]
    caplog.clear()
    chosen = load(path, model_args=ARGS | {"mean": [0.0] * 3, "std": [1.0] * 3})
    assert normalization_of(chosen)["std"] == [1.0] * 3
    assert not caplog.messages


def test_one_mean_for_all_channels(network: nn.Module, tmp_path: Path) -> None:
    state = {f"1.{name}": tensor for name, tensor in network.state_dict().items()}
    loaded = load(stored(state | {"0.mean": torch.tensor(0.5), "0.std": torch.tensor(0.25)}, tmp_path)).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network.eval()((x - 0.5) / 0.25))


def test_a_network_with_a_mean_of_its_own_takes_it_from_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    code = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.linear = nn.Linear(12, classes)
    def forward(self, x):
        return self.linear(((x - self.mean) / self.std).flatten(1))
"""
    (tmp_path / "net_with_mean.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    state = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.1)}
    state |= {"linear.weight": torch.rand(3, 12), "linear.bias": torch.rand(3)}
    loaded = load(stored(state, tmp_path), model="net_with_mean:Net", model_args={})
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert normalization_of(loaded) == {}


def test_grey_images_stay_grey_for_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its first convolution is called."""
    code = "from torch import nn\ndef build(classes, channels):\n"
    code += (
        "    body = nn.Conv2d(channels, 2, 8), nn.Flatten(), nn.Linear(2, classes)\n    return nn.Sequential(*body)\n"
    )
    (tmp_path / "net_of_grey.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    grey = ImageSet(pictures(3).images[..., :1], pictures(3).labels, pictures(3).classes, "grey")
    for channels in (1, 3):
        told: dict[str, Any] = {"model": "net_of_grey:build", "model_args": {"channels": channels}}
        network = build_model("net_of_grey:build", 3, args={"channels": channels})
        path = stored(network.state_dict(), tmp_path)
        settings: dict[str, Any] = {"suite": "fgsm", "data": grey, "epsilon": 0.1, "progress": False, "device": "cpu"}
        from_file = evaluate(path, **told, **settings)
        direct = evaluate("net_of_grey:build", model_args={"channels": channels}, **settings)
        assert from_file.n == direct.n == 96


def test_half_precision_weights_become_fp32(network: nn.Module, tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    loaded = load(stored(halves, tmp_path))
    assert {t.dtype for t in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.state_dict()["linear.weight"], halves["linear.weight"].float())


def test_counters_that_old_files_lack_may_be_missing(network: nn.Module, tmp_path: Path) -> None:
    old = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert equal(load(stored(old, tmp_path)), network)


def test_loads_a_network_by_its_module() -> None:
    loaded = load_classifier("headstart.models:build_model", model_args={"name": "small"}, classes=5)
    assert loaded.network.linear.out_features == 5  # type: ignore[union-attr]


def robustbench_weights(path: Path) -> dict[str, Tensor]:
    """What the loader of RobustBench makes of a file: under a key or bare, two substrings cut off the names."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    for part in ("module.", "model."):
        state = OrderedDict((name[len(part) :] if part in name else name, t) for name, t in state.items())
    return state


@pytest.mark.parametrize(
    ("name", "args"),
    [("small", ARGS), ("wide-resnet28-10", {"depth": 10, "widen": 1}), ("preact-resnet18", {"stem": 4})],
)
def test_trained_weights_in_the_format_of_robustbench(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    """One line makes the .pt file; the loader's cuts do no harm to the names. See docs/your-own.md."""
    network = build_model(name, 10, 3, args)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "weights.pt")
    fresh = build_model(name, 10, 3, args)
    fresh.load_state_dict(robustbench_weights(tmp_path / "weights.pt"), strict=True)
    assert equal(fresh, network)


# -- what is refused --------------------------------------------------------------------------------------------------


class Malice:
    """Unpickled, it would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path(MARK), "ran")


MARK = "must-not-exist.txt"


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malice()}, "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt is a pickle with code \(getattr\), which is refused"):
        load_classifier("weights.pt", model="small")
    assert not Path(MARK).exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -50])
def test_cut_files_are_refused(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model.safetensors is not a complete safetensors file"):
        load_classifier(weights)


@pytest.mark.parametrize(("keep", "old"), [(0, False), (5, False), (200, False), (-100, False), (0, True), (-50, True)])
def test_cut_plain_files_are_refused(network: nn.Module, tmp_path: Path, keep: int, old: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not old)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"weights.pt is truncated"):
        load(path)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {n: t for n, t in state.items() if not n.startswith(name)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("bn1.b"), r"does not fit the network small \(missing bn1.bias\); name the network it is of"),
        (without("layer2"), r"\(missing layer2.0.conv1.weight, layer2.0.bn1.weight, \S+ and 12 more\)"),
        (lambda s: s | {"ema": torch.zeros(1)}, r"\(unknown ema\)"),
        (lambda s: s | {"bn1.bias": torch.zeros(5)}, r"\(other shapes bn1.bias \(5,\) for \(4,\)\)"),
        (lambda s: {f"module.{n}": t for n, t in s.items()} | {"bn1.bias": s["bn1.bias"]}, r"\(unknown bn1.bias\)"),
        (lambda s: s | {"0.mean": torch.zeros(3)}, r"\(unknown 0.mean\)"),
        (lambda s: {"weight": torch.zeros(3, 3)}, r"\(missing conv1.weight, .* and \d+ more; unknown weight\)"),
    ],
)
def test_says_what_does_not_fit(network: nn.Module, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(stored(change(dict(network.state_dict())), tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "args", "classes", "said"),
    [
        ("small", ARGS, 4, "is for 3 classes, the network small here for 4"),
        ("small", {"widths": [4, 9]}, 3, r"other shapes layer2.0.conv1.weight \(8, 4, 3, 3\) for \(9, 4, 3, 3\)"),
        ("small", {"widths": [4, 8], "blocks": [2, 1]}, 3, r"missing layer1.1.conv1.weight, .* and 7 more"),
        ("small", {"widths": [4], "blocks": [1]}, 3, "unknown layer2.0.bn1.bias"),
        (
            "preact-resnet18",
            None,
            3,
            "does not fit the network preact-resnet18 .* it is of small",
        ),
        ("resnet81", None, 3, "did you mean 'resnet18'"),
    ],
)
def test_weights_of_another_network_are_refused(
    weights: Path, model: str, args: dict[str, Any] | None, classes: int, said: str
) -> None:
    state, origin = read_weights(weights).tensors, {k: v for k, v in ORIGIN.items() if k != "classes"}
    save_file(state, weights, origin)
    with pytest.raises(UserError, match=said):
        load_classifier(weights, model=model, model_args=args, classes=classes)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {}, {"state_dict": {}}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"weights.pt holds no state dict; save model.state_dict\(\)"):
        load(stored(content, tmp_path))


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "weights.onnx").write_text("")
    for source, said in [
        (tmp_path / "nothing.safetensors", "does not exist; give a run folder"),
        (tmp_path / "run", r"has no model.safetensors; is the run finished\?"),
        (tmp_path / "weights.onnx", r"unknown ending; allowed: .safetensors, .pt"),
    ]:
        with pytest.raises(UserError, match=said):
            load_classifier(source, model="small")


def test_weights_of_a_network_from_python_need_its_builder(weights: Path) -> None:
    save_file(read_weights(weights).tensors, weights, ORIGIN | {"model": "python:Net"})
    with pytest.raises(UserError, match="belongs to the network Net given from Python; name a function that builds it"):
        load_classifier(weights)
    assert equal(load(weights), load_classifier(weights, model="small", model_args=ARGS).network)


def test_classes_of_the_file_and_of_the_data(network: nn.Module, tmp_path: Path) -> None:
    path = stored(network.state_dict(), tmp_path)
    with pytest.raises(UserError, match="is for 3 classes, the network small here for 5"):
        evaluate(path, suite="fgsm", data=pictures(5), epsilon=0.1, model="small", model_args=ARGS, progress=False)


# -- training from weights --------------------------------------------------------------------------------------------


def start(folder: Path, path: Path, data: ImageSet, **changes: Any) -> Any:
    """One update so small that the weights stay where they began."""
    recipe = tiny(weights=str(path), lr=1e-9, weight_decay=0.0, max_steps=1, batch_size=16, val_size=32, **changes)
    return train(recipe, folder, data=data, progress=False)


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if not n.startswith("linear") and "running" not in n and "num_" not in n}


def test_training_starts_from_a_file(
    network: nn.Module, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    run = start(tmp_path / "run", weights, pictures(3))
    trained = load_file(run.out / "model-last.safetensors")
    assert caplog.messages[0] == f"starting from {weights}"
    for name, tensor in network.state_dict().items():
        if "running" not in name and "num_" not in name:
            torch.testing.assert_close(trained[name], tensor, atol=1e-6, rtol=0)


def test_a_new_last_layer_for_other_classes(
    network: nn.Module, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    run = start(tmp_path / "run", weights, pictures(5))
    assert caplog.messages[0].endswith("; a new last layer for 5 classes (the file has 3)")
    trained = load_file(run.out / "model-last.safetensors")
    assert trained["linear.weight"].shape == (5, 8)
    assert trained["linear.weight"].any()
    for name, tensor in body(network.state_dict()).items():
        torch.testing.assert_close(trained[name], tensor, atol=1e-6, rtol=0)
    again = start(tmp_path / "again", run.out, pictures(5))  # from a run folder, which says its network itself
    assert again.model.linear.out_features == 5


def test_what_the_file_says_of_its_network_holds(network: nn.Module, weights: Path, tmp_path: Path) -> None:
    said = ORIGIN | {"model_args": json.dumps(ARGS | {"act": "silu", "mean": MEAN, "std": STD})}
    save_file(network.state_dict(), weights, said)
    run = start(tmp_path / "run", weights, pictures(3), model_args={"act": "gelu"})
    args = load_recipe(str(run.out / "config.yaml")).model_args
    assert args == {"widths": [4, 8], "act": "gelu", "mean": MEAN, "std": STD}
    assert normalization_of(load_classifier(run.out).network).keys() == {"mean", "std"}


def test_resuming_does_not_load_again(network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    state = {f"1.{n}": t for n, t in network.state_dict().items()}
    path = stored(state | {"0.mean": torch.tensor(MEAN), "0.std": torch.tensor(STD)}, tmp_path)
    recipe = tiny(weights=str(path), epochs=2, batch_size=32, val_size=32)
    data = pictures(3)
    whole = train(recipe, tmp_path / "whole", data=data, progress=False)
    train(load_recipe(str(whole.out / "config.yaml"), max_steps=3), tmp_path / "cut", data=data, progress=False)
    assert "its normalisation (mean [0.5, 0.4, 0.3]" in caplog.text
    caplog.clear()
    path.unlink()
    resumed = train(recipe, tmp_path / "cut", data=data, progress=False, resume=True)
    assert not caplog.messages
    ends = [load_file(run.out / "model-last.safetensors") for run in (whole, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert normalization_of(resumed.model)["mean"] == pytest.approx(MEAN)
    changed = replace(recipe, model_args={"widths": [4, 8], "act": "silu"})
    with pytest.raises(UserError, match=r"model_args is .* but run .* was started with"):
        train(changed, tmp_path / "cut", data=data, progress=False, resume=True)


def test_a_network_from_python_starts_from_weights(network: nn.Module, weights: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"weights": str(weights), "lr": 1e-9, "max_steps": 1, "batch_size": 16, "val_size": 32}
    fields |= {"progress": False, "data": (pictures(3).tensors()[0], torch.arange(96) % 3)}
    mine = small()
    run = train_from_python("digits/fgsm", tmp_path / "run", model=mine, **fields)
    for name, tensor in body(network.state_dict()).items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, atol=1e-6, rtol=0)
    state = {f"1.{n}": t for n, t in network.state_dict().items()}
    fields["weights"] = str(stored(state | {"0.mean": torch.tensor(MEAN), "0.std": torch.tensor(STD)}, tmp_path))
    with pytest.raises(UserError, match=r"carries normalisation .*; give a network that has it"):
        train_from_python("digits/fgsm", tmp_path / "other", model=small(), **fields)
    other = train_from_python("digits/fgsm", tmp_path / "other", model=normalized(small(), MEAN, STD), **fields)
    again = load_classifier(other.out, model="small", model_args=ARGS).network  # the run says how it normalised
    assert normalization_of(again)["mean"] == pytest.approx(MEAN)
    fields["weights"] = str(other.out)
    train_from_python("digits/fgsm", tmp_path / "third", model=normalized(small(), MEAN, STD), **fields)


def test_training_from_weights_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit the network resnet18 .* it is of small"):
        start(tmp_path / "run", weights, pictures(3), model="resnet18", model_args={"widths": [4, 4, 4, 4]})
    with pytest.raises(UserError, match="does not exist"):
        start(tmp_path / "run", tmp_path / "nothing.pt", pictures(3))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_wide_resnets_with_a_block_that_nothing_reads_load(tmp_path: Path, prefix: str) -> None:
    """TRADES and the authors of FGSM-SDI build the first block a second time; its weights are in their files."""
    args = {"depth": 10, "widen": 1}
    published = build_model("wide-resnet34-10", 10, args=args)
    twice = {f"sub_{name}": t.clone() for name, t in published.state_dict().items() if name.startswith("block1.")}
    assert len(twice) >= 10
    everything = {**published.state_dict(), **twice}
    torch.save({"state_dict": {prefix + name: t for name, t in everything.items()}}, tmp_path / "trades.pt")
    loaded = load_classifier(tmp_path / "trades.pt", model="wide-resnet34-10", model_args=args).network
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), published.eval()(x))


def test_a_block_more_is_still_refused_elsewhere(tmp_path: Path) -> None:
    network = build_model("small", 10, args=ARGS)
    torch.save({**network.state_dict(), "sub_block1.weight": torch.zeros(3)}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"unknown sub_block1\.weight"):
        load_classifier(tmp_path / "odd.pt", model="small", model_args=ARGS)
