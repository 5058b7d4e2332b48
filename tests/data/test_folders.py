"""Folders of images by class: what is found there, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.data import find, load
from headstart.data.encoded import FolderSet
from headstart.errors import UserError
from tests.data.pictures import photograph, pixels, write_photographs


def save(path: Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def opened(folder: Path, split: str = "train") -> FolderSet:
    found = find(f"folder:{folder}", split)  # type: ignore[arg-type]
    assert isinstance(found, FolderSet)
    return found


def refused(folder: Path, said: str, split: str = "train") -> None:
    with pytest.raises(UserError, match=said) as error:
        load(f"folder:{folder}", split)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_images_and_classes_are_found(tmp_path: Path) -> None:
    """Also below folders of the class; hidden files and what is no image are passed over."""
    images = pixels(5)
    for path, image in zip(["b/1.png", "a/2.PNG", "a/deep/er/3.bmp", "c/4.webp.png", "c/5.tif"], images, strict=True):
        save(tmp_path / "train" / path, image)
    for stray in ("a/notes.txt", "a/.hidden.png", "a/.thumbs/x.png", "Thumbs.db"):
        (tmp_path / "train" / stray).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / stray).write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    data = load(f"folder:{tmp_path}", "train")
    assert data.classes == ("a", "b", "c")
    assert data.name == f"{tmp_path.name} (train)"
    found = {(int(y), x.numpy().tobytes()) for x, y in zip(data.images, data.labels, strict=True)}
    assert found == {(y, i.tobytes()) for y, i in zip([1, 0, 0, 2, 2], images, strict=True)}


@pytest.mark.parametrize("part", ["test", "validation", "valid", "val"])
def test_the_test_split(tmp_path: Path, part: str) -> None:
    """Its labels are those of train's classes, also where it has fewer of them."""
    write_photographs(tmp_path / "train")
    write_photographs(tmp_path / part, ["owl"], each=2)
    data = opened(tmp_path, "test")
    assert data.classes == ("cat", "dog", "owl")
    assert data.labels.tolist() == [2, 2]
    assert sorted(data.place(row) for row in (0, 1)) == [f"{part}/owl/0.jpg", f"{part}/owl/1.jpg"]


def test_test_comes_before_validation_and_may_be_all_there_is(tmp_path: Path) -> None:
    write_photographs(tmp_path / "val", each=1)
    assert len(opened(tmp_path, "test")) == 3
    write_photographs(tmp_path / "test", each=2)
    assert len(opened(tmp_path, "test")) == 6


def test_the_order_is_fixed_and_mixes_the_classes(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", each=8)
    torch.manual_seed(1)
    data, again = opened(tmp_path), opened(tmp_path)
    assert data.paths.tolist() == again.paths.tolist()
    assert len(data.labels[:8].unique()) == 3
    for row in range(len(data)):
        assert data.place(row).split("/")[1] == data.classes[data.labels[row]]


def test_tiny_imagenet_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train/WNID/images/FILE, and a flat val/images with a file of annotations; test has no labels."""
    images = pixels(6, size=(64, 64))
    root = tmp_path / "tiny-imagenet"
    save(root / "train" / "n02" / "images" / "n02_0.png", images[0])
    save(root / "train" / "n01" / "images" / "n01_0.png", images[1])
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.png\t0\t0\t63\t63\n")
    for i in range(3):
        save(root / "val" / "images" / f"val_{i}.png", images[2 + i])
    save(root / "test" / "images" / "test_0.png", images[5])
    lines = [f"val_{i}.png\t{wnid}\t0\t0\t62\t62\n" for i, wnid in enumerate(["n02", "n01", "n02"])]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path))
    train, test = load("tiny-imagenet", "train"), load("tiny-imagenet", "test")
    assert train.classes == test.classes == ("n01", "n02")
    assert (len(train), len(test)) == (2, 3)
    labels = {x.numpy().tobytes(): int(y) for d in (train, test) for x, y in zip(d.images, d.labels, strict=True)}
    assert labels == {image.tobytes(): y for image, y in zip(images, [1, 0, 1, 0, 1], strict=False)}
    (root / "val" / "val_annotations.txt").write_text("val_0.png\tn99\t0\t0\t62\t62\n")
    refused(root, "val_annotations.txt, line 1: class 'n99' is not a folder of train", "test")


def test_what_is_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "data folder .*nowhere does not exist")
    (tmp_path / "cat").mkdir()
    refused(tmp_path, "has no train/CLASS/IMAGE; it holds cat")
    refused(tmp_path, "has no test/CLASS/IMAGE or val/CLASS/IMAGE; it holds cat", "test")
    (tmp_path / "train").mkdir()
    photograph(9, 9).save(tmp_path / "train" / "1.jpg")
    refused(tmp_path, "train has no class folders")


def test_classes_without_images_or_without_training(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train")
    write_photographs(tmp_path / "test", ["cat", "fox"])
    refused(tmp_path, r"test has the class 'fox', which train does not have; remove it, or train on it too", "test")
    (tmp_path / "train" / "elk").mkdir()
    (tmp_path / "train" / "elk" / "notes.txt").write_text("to do")
    refused(tmp_path, r"class folder .*train/elk holds no images")


def test_unreadable_images_are_named_by_their_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photographs(tmp_path / "train", each=2)
    (tmp_path / "train" / "dog" / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    with pytest.raises(UserError, match=r"the image train/dog/1\.jpg cannot be read"):
        load(f"folder:{tmp_path}", "train", image_size=16)
    data = load(f"folder:{tmp_path}", "train", "skip", image_size=16)
    assert sorted(data.labels.tolist()) == [0, 0, 1, 2, 2]
    assert "1 of 6 images cannot be read and are left out, the first train/dog/1.jpg" in caplog.text


def test_images_of_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train")
    refused(tmp_path, r"the image train/\w+/\d\.jpg is \d+x\d+, the image .* is \d+x\d+; image_size, such as 224")


def test_changed_files_are_decoded_anew(tmp_path: Path, cache: Path) -> None:
    for i, image in enumerate(pixels(4)):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", image)
    first = load(f"folder:{tmp_path}", "train")
    assert load(f"folder:{tmp_path}", "train").checksum() == first.checksum()
    assert len(list(cache.iterdir())) == 1
    save(tmp_path / "train" / "a" / "0.png", pixels(1, seed=9)[0])
    changed = load(f"folder:{tmp_path}", "train")
    assert (changed.images != first.images).flatten(1).any(1).sum() == 1
