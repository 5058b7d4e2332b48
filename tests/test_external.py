"""Networks of timm and torchvision as they are: from a folder of photographs through training to an evaluation."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import headstart
from headstart.commands.main import main
from headstart.core import Target
from headstart.core.checkpointing import checkpoint_activations
from headstart.errors import UserError
from headstart.models import build_model, external, normalization_of
from headstart.runs.classifier import load_classifier

SAMPLE = Path(headstart.__file__).parents[3] / "shared" / "data" / "tiny-imagenet"
CLASSES, SIDE = 4, 64
NETWORKS: dict[str, dict[str, Any]] = {  # the arguments make them smaller, not others
    "timm:vit_tiny_patch16_224": {"img_size": SIDE, "depth": 3, "drop_path_rate": 0.1},
    "timm:convnext_atto": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 128], "drop_path_rate": 0.1},
    "timm:resnet18": {"channels": [16, 32, 64, 128]},
    "timm:mobilenetv3_small_050": {"drop_rate": 0.2},
    "timm:efficientnet_b0": {"drop_path_rate": 0.1},
    "timm:swin_tiny_patch4_window7_224": {
        "img_size": SIDE,
        "window_size": 4,
        "embed_dim": 24,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 4, 4],
    },
    "torchvision:mobilenet_v3_small": {"width_mult": 0.5},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` of the first classes of the sample."""
    if not SAMPLE.exists():
        pytest.skip("there is no sample of Tiny ImageNet in ../shared/data/tiny-imagenet")
    folder = tmp_path_factory.mktemp("photographs")
    for source, part in (("train", "train"), ("valid", "test")):
        table = pq.read_table(next(SAMPLE.glob(f"{source}*.parquet")))
        for i, line in enumerate(line for line in table.to_pylist() if line["label"] < CLASSES):
            path = folder / part / f"class-{line['label']}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(BytesIO(line["image"]["bytes"])).convert("RGB").save(path, quality=95)
    return folder


def train(name: str, photographs: Path, out: Path, *more: str) -> int:
    """Two updates by the book, on the processor."""
    fields = {"data": f"folder:{photographs}", "model": name, "out": out, "batch_size": 8, "val_size": 8, "epochs": 1}
    fields |= {"max_steps": 2, "image_size": "null", "device": "cpu", "model_args": json.dumps(NETWORKS.get(name, {}))}
    return main(["train", "finetune/fgsm-rs", *(str(w) for k, v in fields.items() for w in (f"--{k}", v)), *more])


@pytest.mark.parametrize("name", NETWORKS)
def test_trains_and_is_evaluated(name: str, photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = build_model(name, CLASSES, args=NETWORKS[name])
    assert train(name, photographs, tmp_path / "run") == 0
    trained = load_classifier(tmp_path / "run").network
    assert normalization_of(trained) == normalization_of(before) != {}
    moved = [n for (n, a), b in zip(before.named_parameters(), trained.parameters(), strict=True) if not a.equal(b)]
    assert len(moved) > 0.9 * len(list(before.parameters()))  # the rate at the images is small, but it is not 0
    assert main(["evaluate", str(tmp_path / "run"), "--suite", "fgsm", "--device", "cpu", "--n", "8"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 <= found["robust"] <= found["clean"] <= 1
    assert found["n"] == 8


@pytest.mark.parametrize("name", [name for name in NETWORKS if "resnet" not in name])
def test_dropping_networks_in_ascents_and_with_checkpointed_blocks(name: str) -> None:
    """An ascent sees the whole network, a descent a part of it; blocks that run twice drop the same both times."""
    drops = {"dropout": 0.5} if name.startswith("torchvision") else {"drop_path_rate": 0.5, "drop_rate": 0.5}
    x, y = torch.rand(4, 3, SIDE, SIDE), torch.arange(4)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        network = build_model(name, CLASSES, args=NETWORKS[name] | drops).train()
        if checkpointed:
            checkpoint_activations(network)
        target = Target(network, ascent_dropout=False)
        one, other = (target.ascend(x, lambda z: F.cross_entropy(z, y))[0] for _ in range(2))
        assert torch.equal(one, other)
        assert not torch.equal(target.descend(x), target.descend(x))
        F.cross_entropy(target.descend(x), y).backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))


def test_a_whole_vit_b_16_of_torchvision_in_a_loop() -> None:
    """86 million weights, whose checkpoints would cost more than the update."""
    network = build_model("torchvision:vit_b_16", CLASSES, args={"image_size": 32})
    method = headstart.load_method("fgsm-rs", epsilon="4/255", classes=CLASSES, image_shape=(3, 32, 32), updates=2)
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    optimizer, losses = torch.optim.SGD(network.parameters(), 0.01), []
    for _ in range(2):
        losses.append(method(network, x, y))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    found = headstart.evaluate(network, data=(x, y), suite="fgsm", epsilon="4/255", device="cpu", progress=False)
    assert 0 <= found.robust <= found.clean <= 1


def test_weights_of_timm_with_a_new_head(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "timm:vit_tiny_patch16_224"
    pretrained = build_model(name, 9, args=NETWORKS[name])
    torch.save(pretrained.state_dict(), tmp_path / "timm.pth")
    assert train(name, photographs, tmp_path / "run", "--weights", str(tmp_path / "timm.pth"), "--lr", "1e-9") == 0
    assert f"a new last layer for {CLASSES} classes (the file has 9)" in " ".join(capsys.readouterr().err.split())
    trained = load_classifier(tmp_path / "run").network.state_dict()
    for key, weights in pretrained.state_dict().items():
        if not key.startswith("head."):
            torch.testing.assert_close(trained[key], weights, atol=1e-6, rtol=0)


def test_pretrained_weights_are_fetched_once(photographs: Path, tmp_path: Path) -> None:
    """What was trained is in the run: going on and evaluating need no network connection."""
    name, file = "timm:vit_tiny_patch16_224", tmp_path / "timm.pth"
    pretrained = build_model(name, 9, args=NETWORKS[name]).state_dict()
    torch.save(pretrained, file)
    fetched = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file), "num_classes": 9}}
    more = ("--model_args", json.dumps(NETWORKS[name] | fetched), "--lr", "1e-9")
    assert train(name, photographs, tmp_path / "run", *more) == 0
    trained = load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(trained["pos_embed"], pretrained["pos_embed"], atol=1e-6, rtol=0)
    file.unlink()
    assert train(name, photographs, tmp_path / "run", *more, "--max_steps", "3", "--resume") == 0
    assert main(["evaluate", str(tmp_path / "run"), "--suite", "fgsm", "--device", "cpu", "--n", "8"]) == 0
    assert train(name, photographs, tmp_path / "other", *more) == 2, "the file is gone, and asked for"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--model_args", "{img_size: 48}"),
            r"does not take images of shape \(3, 64, 64\), as in .* match model \(48\)",
        ),
        (
            ("--model_args", "{image_size: 64}"),
            r"model timm:vit_tiny_patch16_224: .*'image_size'; called with classes=4",
        ),
        (("--freeze", "[blocks.0, block.1]"), r"no weights named 'block.1'; did you mean 'blocks.1'\?"),
        (("--freeze_batch_norm", "true"), "network timm:vit_tiny_patch16_224 has no batch-norm; leave it out"),
        (("--model", "timm:vit_tiny_patch61_224"), "did you mean timm:vit_tiny_patch16_224"),
        (("--checkpoint_activations", "true", "--compile", "true"), "does not go with compile"),
    ],
)
def test_what_does_not_work_is_one_line(
    more: tuple[str, ...], said: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("timm:vit_tiny_patch16_224", photographs, tmp_path / "run", *more) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.fullmatch(rf"headstart: .*{said}.*", error), error
    assert not (tmp_path / "run").exists()


def test_operators_that_are_there_are_not_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torchvision imports as it is, or fails for another reason, nothing is done to it."""
    build_model("torchvision:squeezenet1_0", 3)  # declared by now, where that was needed: the import succeeds
    monkeypatch.setattr(external, "_declare_operators", lambda: pytest.fail("declared"))
    assert build_model("torchvision:squeezenet1_0", 3)(torch.rand(1, 3, 32, 32)).shape == (1, 3)

    def broken(package: str) -> None:
        raise RuntimeError("CUDA driver too old")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(UserError, match=r"needs torchvision \(CUDA driver too old\)"):
        build_model("torchvision:squeezenet1_0", 3)
