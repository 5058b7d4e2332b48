"""From weights to a measured network: what is taken from their file, and data that does not belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from headstart.data import ImageSet, load
from headstart.errors import UserError
from headstart.evaluation.evaluate import evaluate
from headstart.models import build_model

ARGS = {"widths": [4, 8]}
ORIGIN = {
    "model": "small",
    "model_args": json.dumps(ARGS),
    "classes": json.dumps(["a", "b", "c"]),
    "channels": "3",
    "data": "elsewhere",
    "epsilon": "0.1",
    "norm": "linf",
}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small", 3, 3, ARGS)


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    """A file as training writes it."""
    return stored(network.state_dict(), tmp_path / "model.safetensors", ORIGIN)


def stored(state: dict[str, Tensor], path: Path, origin: dict[str, str]) -> Path:
    save_file(dict(state), path, origin)
    return path


def pictures(classes: int = 3, channels: int = 3, n: int = 12, size: int = 8, names: str = "abcdefghijkl") -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, size, size, channels), generator=draw, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % classes, tuple(names[:classes]), "pictures")


def measured(source: Any, data: ImageSet, **settings: Any) -> Any:
    return evaluate(source, suite="fgsm", data=data, progress=False, device="cpu", **settings)


def test_measures_with_what_the_weights_were_trained_for(weights: Path) -> None:
    result = measured(weights, pictures())
    assert (result.epsilon, result.norm, result.n) == (0.1, "linf", 12)
    assert measured(weights, pictures(), epsilon="8/255", n=5).n == 5


def test_labels_decide(network: nn.Module, weights: Path) -> None:
    data = pictures()
    with torch.no_grad():
        answers = network.eval()(data.tensors()[0].float() / 255).argmax(1)
    right = ImageSet(data.images, answers, data.classes, data.name)
    wrong = ImageSet(data.images, (answers + 1) % 3, data.classes, data.name)
    assert measured(weights, right).clean == 1
    assert measured(weights, wrong).clean == 0


def test_test_images_that_the_network_was_trained_on_are_noticed(tmp_path: Path) -> None:
    grey = build_model("small", 10, 1, ARGS)
    digits = {**ORIGIN, "data": "digits", "channels": "1", "classes": json.dumps([str(k) for k in range(10)])}
    source = stored(grey.state_dict(), tmp_path / "digits.safetensors", digits)
    test, training = load("digits", "test"), load("digits", "train")
    honest = evaluate(source, suite="fgsm", n=20, progress=False)
    assert not any("copies" in warning for warning in honest.warnings)
    mixed = ImageSet(
        torch.cat([test.images[:17], training.images[:3]]),
        torch.cat([test.labels[:17], training.labels[:3]]),
        test.classes,
        "mixed",
    )
    found = measured(source, mixed).warnings[-1]
    assert "3 of 20 test images are exact copies of training images (rows 17, 18, 19)" in found


@pytest.mark.parametrize(("classes", "names"), [(2, "abc"), (5, "abcde"), (4, "0123")])
def test_data_of_other_classes_is_refused(weights: Path, classes: int, names: str) -> None:
    said = f"pictures has {classes} classes, but the weights were trained on the 3 of elsewhere"
    with pytest.raises(UserError, match=said):
        measured(weights, pictures(classes, names=names))


def test_a_part_of_numbered_classes_is_no_other_data(network: nn.Module, tmp_path: Path) -> None:
    """Where a set names no classes, there are as many as its largest label says."""
    origin = ORIGIN | {"classes": json.dumps(["0", "1", "2"])}
    weights = stored(network.state_dict(), tmp_path / "numbered.safetensors", origin)
    assert measured(weights, pictures(2, names="012")).n == 12
    with pytest.raises(UserError, match="has 4 classes"):
        measured(weights, pictures(4, names="0123"))


def test_grey_images_become_rgb_for_a_network_of_colours(network: nn.Module, weights: Path, tmp_path: Path) -> None:
    grey = pictures(channels=1)
    colour = ImageSet(grey.images.repeat(1, 1, 1, 3), grey.labels, grey.classes, "colour")
    assert measured(weights, grey).broken_by == measured(weights, colour).broken_by
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    plain = measured(tmp_path / "weights.pt", grey, model="small", model_args=ARGS, epsilon=0.1)
    assert plain.broken_by == measured(weights, colour).broken_by


def test_colour_images_are_refused_by_a_network_of_grey_ones(tmp_path: Path) -> None:
    state = build_model("small", 3, 1, ARGS).state_dict()
    weights = stored(state, tmp_path / "grey.safetensors", ORIGIN | {"channels": "1"})
    with pytest.raises(UserError, match="pictures is in colour, but the weights were trained on grey images"):
        measured(weights, pictures())


def test_images_that_the_network_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not take images of shape \(3, 8, 8\), as in pictures"):
        measured("tests.evaluation.test_evaluate:fixed_size", pictures(), epsilon=0.1)


def fixed_size(classes: int) -> nn.Module:
    """For images of 4 by 4 only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"suite": "pdg"}, "unknown suite 'pdg'; did you mean 'pgd'"),
        ({"n": 0}, "n is 0; pictures has 12 images, so 1 to 12"),
        ({"n": 13}, "n is 13"),
        ({"epsilon": 8}, r"did you mean 8/255\?"),
        ({"epsilon": "8/0"}, "epsilon is '8/0'"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"device": "cdua"}, "unknown device 'cdua'; did you mean 'cuda'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"data": None}, "unknown data set 'elsewhere'"),
        ({"data": "digits"}, "has 10 classes, but the weights"),
    ],
)
def test_bad_settings_are_refused(weights: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluate(weights, **dict[str, Any](suite="fgsm", data=pictures(), device="cpu", progress=False) | settings)


def test_plain_weights_need_data_and_epsilon(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    settings: dict[str, Any] = {"model": "small", "model_args": ARGS, "suite": "fgsm", "progress": False}
    with pytest.raises(UserError, match=r"which epsilon\? .* give a pixel fraction such as 8/255"):
        evaluate(tmp_path / "weights.pt", data=pictures(), **settings)
    with pytest.raises(UserError, match=r"which data\? the source does not say it"):
        evaluate(build_model("small", 3), epsilon=0.1, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(weights: Path) -> None:
    with pytest.raises(UserError, match="device cuda is not available"):
        evaluate(weights, suite="fgsm", data=pictures(), device="cuda")
