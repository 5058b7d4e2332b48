"""Exported networks: the same logits in other programs, with the normalisation inside, and back again."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from headstart.commands.main import main
from headstart.data import load
from headstart.errors import UserError
from headstart.models import build_model
from headstart.runs import export as exporting
from headstart.runs.classifier import load_classifier
from headstart.runs.export import FORMATS, export

ARGS: dict[str, Any] = {"widths": [4, 8], "mean": [0.3], "std": [0.4]}
SCORES = {"suite": "standard", "n": 500, "clean": 0.97, "robust": 0.215, "epsilon": 8 / 255, "norm": "linf"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on digits whose network normalises, with batch statistics that are not those of its start."""
    return make_run(tmp_path, ARGS)


def make_run(tmp_path: Path, args: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    network = build_model("small", 10, 1, args)
    network(torch.rand(64, 1, 8, 8))
    origin = {
        "model": "small", "model_args": json.dumps(args), "classes": json.dumps([str(k) for k in range(10)]),
        "channels": "1", "data": "digits", "method": "fgsm-sdi", "norm": "linf", "epsilon": repr(8 / 255),
    }  # fmt: skip
    folder = tmp_path / "Ours2026Fast"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors", origin)
    (folder / "evaluation.json").write_text(json.dumps(SCORES))
    return folder


@pytest.fixture
def images() -> Tensor:
    """Real ones, more than the export looks at."""
    return load("digits", "test").tensors()[0][:100].float() / 255


def logits(run: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = load_classifier(run).network.eval()(images)
    return result


def test_onnx_runs_without_torch_on_any_number_of_images(run: Path, images: Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file, _ = export(run, "onnx")
    assert file == run / "Ours2026Fast.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        (answer,) = session.run(["logits"], {"images": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), logits(run, batch), rtol=1e-4, atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["headstart"])
    assert facts["measured"]["robust"] == 0.215
    assert facts["normalization"]["mean"] == pytest.approx([0.3])


def test_torchscript_needs_no_library(run: Path, images: Tensor) -> None:
    file, described = export(run, "torchscript")
    loaded = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
    for batch in (images, images[:1]):
        torch.testing.assert_close(loaded(batch), logits(run, batch))
    assert json.loads(described.read_text())["input"]["shape"] == ["N", 1, 8, 8]


def test_a_state_dict_brings_its_normalisation_back(run: Path, images: Tensor, tmp_path: Path) -> None:
    file, _ = export(run, "state_dict", tmp_path / "plain.pt")
    back = load_classifier(file, model="small", model_args={"widths": [4, 8]}).network.eval()
    with torch.no_grad():
        torch.testing.assert_close(back(images), logits(run, images))


@pytest.mark.parametrize("to", FORMATS)
def test_a_mirrored_network_stays_one(to: str, tmp_path: Path, images: Tensor) -> None:
    """Every format answers as it does, or says what the weights are of."""
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    run = make_run(tmp_path, {**ARGS, "mirrored": True})
    torch.testing.assert_close(logits(run, images.flip(3)), logits(run, images))
    files = export(run, to, tmp_path / "out" if to == "robustbench" else None)
    described = [json.loads(file.read_text()) for file in files if file.suffix == ".json"]
    assert described[0]["model_args"]["mirrored"] is True
    assert to != "robustbench" or described[1]["number_forward_passes"] == 2


class Theirs(nn.Module):
    """A network as RobustBench builds them: the same names, and ``mu`` and ``sigma`` as buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        inner = build_model("small", 10, 1, {"widths": [4, 8]})
        for name, layer in inner.named_children():
            self.add_module(name, layer)
        self.register_buffer("mu", torch.zeros(1, 1, 1, 1))
        self.register_buffer("sigma", torch.ones(1, 1, 1, 1))
        object.__setattr__(self, "inner", inner)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner((x - self.mu) / self.sigma)
        return result


def test_robustbench_finds_weights_and_scores_under_its_names(run: Path, images: Tensor, tmp_path: Path) -> None:
    files = export(run, "robustbench", tmp_path / "bench")
    weights = tmp_path / "bench/models/digits/Linf/Ours2026Fast.pt"
    assert weights in files
    state = torch.load(weights, weights_only=True)["state_dict"]
    for part in ("module.", "model."):  # as its loader cuts them off
        state = OrderedDict((name[len(part) :] if part in name else name, t) for name, t in state.items())
    theirs = Theirs().eval()
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), logits(run, images))
    info = json.loads((tmp_path / "bench/model_info/digits/Linf/Ours2026Fast.json").read_text())
    assert (info["eps"], info["clean_acc"], info["autoattack_acc"]) == ("8/255", "97.00", "21.50")


def test_robustbenchs_weights_come_here(run: Path, images: Tensor, tmp_path: Path) -> None:
    """The other way round: what its networks save, under "state_dict" and with their prefixes."""
    export(run, "robustbench", tmp_path)
    state = torch.load(tmp_path / "models/digits/Linf/Ours2026Fast.pt", weights_only=True)["state_dict"]
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, tmp_path / "theirs.pt")
    back = load_classifier(tmp_path / "theirs.pt", model="small", model_args={"widths": [4, 8]}).network.eval()
    with torch.no_grad():
        torch.testing.assert_close(back(images), logits(run, images))


def test_an_accuracy_that_is_not_autoattacks_is_not_called_so(run: Path, tmp_path: Path) -> None:
    (run / "evaluation.json").write_text(json.dumps(SCORES | {"suite": "pgd"}))
    info = json.loads(export(run, "robustbench", tmp_path)[-1].read_text())
    assert "autoattack_acc" not in info
    assert info["clean_acc"] == "97.00"


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "onnx"])
def test_a_result_that_answers_otherwise_is_not_kept(
    to: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older file of that name stays."""
    out = tmp_path / "out"
    before = export(run, to, out if to == "robustbench" else out / f"x{FORMATS[to][0]}")[0]
    kept = before.read_bytes()
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="gives other logits"):
        export(run, to, out if to == "robustbench" else before)
    assert before.read_bytes() == kept
    assert not list(before.parent.glob("draft-*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "onxx"], "unknown format 'onxx'; did you mean 'onnx'"),
        (["--to", "onnx", "--out", "x.pt"], "out is x.pt; a file for onnx ends in .onnx"),
        (["--to", "torchscript", "--data", "folder:nowhere"], "nowhere"),
        (["--to", "torchscript", "--data", "cifar10x"], "cifar10x"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], said: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(["export", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none"), "--to", "torchscript"]) == 2
    assert "does not exist; give a run folder" in capsys.readouterr().err


def test_the_command_names_its_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", "torchscript"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(run / "Ours2026Fast.ts"), str(run / "Ours2026Fast.ts.json")
    ]  # fmt: skip
