"""From data as users have it to trained networks, and to what is measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import headstart
from headstart.commands.main import main
from headstart.data import ImageSet, StreamedSet, find, from_python, in_memory, load
from headstart.data.decode import resized
from headstart.errors import UserError
from headstart.parts.memory import SampleMemory
from headstart.training.feed import load_parts
from headstart.training.train import train
from tests.data import pictures
from tests.helpers import info
from tests.training.runs import records, tiny

SIZE = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of three classes and mixed sizes: 36 to train on, 12 to test on."""
    folder = tmp_path_factory.mktemp("mine") / "photos"
    pictures.write_photographs(folder / "train", each=12)
    pictures.write_photographs(folder / "test", each=4)
    return folder


def recipe(photos: Path, method: str = "fgsm-rs", **changes: Any) -> Any:
    settings = {"image_size": SIZE, "batch_size": 8, "val_size": 6, "epochs": 2, "workers": 0}
    return tiny(method, data=f"folder:{photos}", **settings | changes)


# -- the parts --------------------------------------------------------------------------------------------------------


def test_streamed_parts_do_not_overlap(photos: Path) -> None:
    """The same rows are held out whatever the seed; validation shows their centres."""
    train_set, val_set = load_parts(recipe(photos))
    again = load_parts(recipe(photos, seed=3))
    found = find(f"folder:{photos}", "train")
    assert isinstance(train_set, StreamedSet)
    assert not isinstance(found, ImageSet)
    assert (len(train_set), len(val_set), train_set.classes) == (30, 6, ("cat", "dog", "owl"))
    held_out = sorted(set(range(36)) - set(train_set.rows.tolist()))
    assert val_set.images.shape == (6, SIZE, SIZE, 3)
    for image, label, row in zip(val_set.images, val_set.labels, held_out, strict=True):
        assert np.array_equal(image.numpy(), resized(found.read(row), SIZE))
        assert label == found.labels[row]
    assert isinstance(again[0], StreamedSet)
    assert torch.equal(again[0].rows, train_set.rows)
    assert again[1].checksum() == val_set.checksum()


def test_only_the_first_samples(photos: Path) -> None:
    train_set, val_set = load_parts(recipe(photos, samples=20))
    assert isinstance(train_set, StreamedSet)
    assert (len(train_set), len(val_set)) == (14, 6)
    assert int(train_set.rows.max()) < 20


def test_too_few_images_to_hold_some_out(photos: Path) -> None:
    with pytest.raises(UserError, match=r"val_size is 36; photos \(train\) has 36 images, so 1 to 35"):
        load_parts(recipe(photos, val_size=36))


def test_what_is_in_memory_is_not_resized() -> None:
    with pytest.raises(UserError, match=r"image_size is 16, but digits \(train\) comes at 8x8"):
        load("digits", "train", image_size=16)
    assert len(load("digits", "test", image_size=8)) == 500


# -- from Python ------------------------------------------------------------------------------------------------------


class Pairs(Dataset[Any]):
    """As many sets are: pictures of PIL and labels, read one at a time."""

    def __init__(self, n: int = 6) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return pictures.photograph(20, 20, seed=row), row % 3


class Named(Pairs):
    """With labels and class names to be had at once; reading an image tells."""

    targets = torch.tensor([2, 1, 0, 2, 1, 0])
    classes = ("x", "y", "z")

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        raise AssertionError("read for its label")


def test_a_dataset_of_torch() -> None:
    data = in_memory(from_python(Pairs(), "mine"))
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.classes, data.name) == (("0", "1", "2"), "mine")
    assert np.array_equal(data.images[4].numpy(), np.asarray(pictures.photograph(20, 20, seed=4)))
    named = from_python(Named())
    assert (named.labels.tolist(), named.classes) == ([2, 1, 0, 2, 1, 0], ("x", "y", "z"))
    assert in_memory(from_python(Pairs()), n=2).labels.tolist() == [0, 1]
    subset = torch.utils.data.Subset(Pairs(), [5, 3])
    assert in_memory(from_python(subset), 8).labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Pairs(0), "the split is empty"),
        (iter([1]), "data is list_iterator; give a name"),
        (3, "data is int; give a name"),
        ([1, 2], "item 0 of list is no"),
        ([(np.zeros((4, 4), np.uint8), "cat")], "labels must be whole numbers"),
        ([(np.zeros((4, 4), np.uint8), 0.5)], "labels must be whole numbers"),
        ([(np.zeros((4, 4), np.uint8), -2)], "label -2 in row 0"),
    ],
)
def test_what_is_no_dataset(data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_python(data)


def test_fewer_labels_than_images() -> None:
    data = Pairs()
    data.targets = [0, 1]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="6 images but 2 labels"):
        from_python(data)


def test_trains_and_evaluates_a_dataset(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"val_size": 4, "epochs": 1, "batch_size": 8, "model_args": {"blocks": [1], "widths": [4]}}
    run = headstart.train(
        "cifar10-small/fgsm-rs", tmp_path / "run", data=Pairs(12), progress=False, image_size=SIZE, workers=0, **fields
    )
    measured = headstart.evaluate(run.model, data=Pairs(9), image_size=SIZE, epsilon="8/255", suite="fgsm", n=6)
    assert measured.n == 6
    assert 0 <= measured.robust <= 1


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_folder_of_photographs(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user would: train on it, and evaluate the run without saying how it was trained."""
    fields = ["--epochs", "1", "--batch_size", "8", "--val_size", "6", "--model_args.widths", "[4,8,8]"]
    command = ["train", "cifar10-small/fgsm-sdi", "--data", f"folder:{photos}", "--out", str(tmp_path / "run"), *fields]
    assert main(command) == 2
    assert "; image_size, such as 224, crops all to one size" in capsys.readouterr().err
    assert main([*command, "--image_size", str(SIZE), "--workers", "1"]) == 0
    said = f"folder:{photos}: 30 images to train on, 6 to choose the checkpoint by, 3 classes"
    assert said in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--suite", "fgsm"]) == 0
    assert "12 images" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--suite", "fgsm", "--n", "13"]) == 2
    assert "n is 13; photos (test) has 12 images" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["fgsm-sdi", "fgsm-mep"])
def test_a_resumed_streamed_run_ends_in_the_same_weights(photos: Path, tmp_path: Path, method: str) -> None:
    """Also inside an epoch, and with another number of workers; fgsm-mep remembers every sample."""
    whole = train(recipe(photos, method), tmp_path / "whole", progress=False).out
    train(recipe(photos, method, max_steps=6, workers=2), tmp_path / "cut", progress=False)
    resumed = train(recipe(photos, method, workers=1), tmp_path / "cut", resume=True, progress=False).out
    assert records(resumed) == records(whole)


def test_memory_in_the_frame_of_the_image_needs_crops_that_can_be_undone(photos: Path, tmp_path: Path) -> None:
    aligned: list[tuple[str, dict[str, Any]]] = [
        ("sdi-memory", {"generator_width": 4}),
        ("fgsm-mep", {"aligned": True}),
        ("fgsm-pco", {"aligned": True}),
    ]
    for method, settings in aligned:
        with pytest.raises(UserError, match="remembers perturbations by their place in the image"):
            train(recipe(photos, method, method_args=settings), tmp_path / method, progress=False)


def test_memory_that_no_machine_has() -> None:
    with pytest.raises(UserError, match="remembers 1000000000 samples in 140190 GB of memory; choose one that does"):
        SampleMemory(info(image_shape=(3, 224, 224), samples=10**9), unit=1.0)


def test_parquet_of_mixed_sizes(tmp_path: Path) -> None:
    cells = [pictures.encoded(pictures.photograph(20 + i, 30, seed=i), "JPEG") for i in range(20)]
    for split in ("train", "validation"):
        pictures.write(tmp_path / f"{split}.parquet", cells, [i % 2 for i in range(20)], ["a", "b"], group=3)
    settings = {"data": f"parquet:{tmp_path}", "image_size": SIZE, "batch_size": 8, "val_size": 4, "epochs": 1}
    run = train(tiny("free", **settings), tmp_path / "run", progress=False)
    assert headstart.evaluate(run.out, suite="fgsm", progress=False).n == 20


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_that_are_none(size: int) -> None:
    with pytest.raises(UserError, match=f"image_size is {size}; it must be at least 1"):
        tiny(image_size=size)
    with pytest.raises(UserError, match="workers is -1; it must be at least 0"):
        tiny(workers=-1)
