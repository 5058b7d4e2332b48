"""What is wrong with either split is said before a training, not after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.commands.main import main
from headstart.data import check, decode, find
from headstart.data.check import check_classes, check_images
from headstart.data.images import from_arrays
from headstart.errors import DataError, UserError
from headstart.recipes.recipe import Recipe
from headstart.training.feed import load_parts
from tests.data.pictures import encoded, photograph, pixels, write
from tests.training.runs import tiny

EACH = 4


def fill(folder: Path, classes: str = "abc", channels: int = 3) -> Path:
    """Small PNGs in a folder per class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(pixels(EACH, channels=channels, seed=ord(name))):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes to train and to test on."""
    fill(tmp_path / "photos" / "train")
    fill(tmp_path / "photos" / "test")
    return tmp_path / "photos"


def recipe(photos: Path, **changes: Any) -> Recipe:
    return tiny(data=f"folder:{photos}", **{"val_size": 3} | changes)


def refused(photos: Path, said: str, **changes: Any) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_parts(recipe(photos, **changes))
    assert "\n" not in str(error.value)


def test_the_command_refuses_in_one_line_and_begins_nothing(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "test" / "a" / "0.png").write_bytes(b"\x89PNG and no more")
    out = photos.parent / "run"
    command = ["train", "digits/fgsm-rs", "--data", f"folder:{photos}", "--val_size", "3", "--device", "cpu"]
    assert main([*command, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "photos (test): the image test/a/0.png cannot be read" in said
    assert "repair or remove it" in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_good_splits_are_trained_on(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for size in (None, 16):
        train, val = load_parts(recipe(photos, image_size=size))
        assert (len(train), len(val)) == (9, 3)
    assert caplog.text == ""


def test_classes_of_one_split_alone(photos: Path) -> None:
    fill(photos / "test", "d")
    refused(photos, r"test has the class 'd', which train does not have; remove it, or train on it too")
    shutil.rmtree(photos / "test" / "d")
    shutil.rmtree(photos / "test" / "b")
    refused(photos, r"photos \(test\) has no image of class 'b' \(of 3\); add some, or remove the class from both")
    shutil.rmtree(photos / "test" / "a")
    refused(photos, r"photos \(test\) has no image of class 'a' and 1 more")


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    """It would train to "100 % robust"."""
    for split in ("train", "test"):
        fill(tmp_path / split, "a")
    refused(tmp_path, "all images are of class 'a'; a classifier needs images of two classes or more")


def test_the_first_images_of_a_sorted_set_are_of_one_class() -> None:
    data = from_arrays(torch.rand(30, 1, 8, 8), torch.arange(30) // 15)
    with pytest.raises(DataError, match=r"its 8 images are all of class '0'.*take more samples, or shuffle the set"):
        load_parts(tiny(samples=10, val_size=2), data)


@pytest.mark.parametrize("kind", ["cut", "words", "pixel"])
@pytest.mark.parametrize("size", [None, 16])
def test_broken_test_images(photos: Path, kind: str, size: int | None) -> None:
    """Also where training may skip broken images, since no test may."""
    path = photos / "test" / "b" / "1.jpg"
    photograph(60, 40).save(path, quality=95)
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(photos / "test" / "b" / "1.png")
    if kind == "pixel":
        path.unlink()
    else:
        (photos / "test" / "b" / "1.png").unlink()
        path.write_bytes(path.read_bytes()[:-400] if kind == "cut" else b"not an image")
    refused(photos, r"the image test/b/1\.\w+ cannot be read", image_size=size, on_bad_image="skip")


def test_test_images_of_two_sizes_or_another_colour(photos: Path) -> None:
    Image.fromarray(pixels(1, (9, 9))[0]).save(photos / "test" / "a" / "0.png")
    refused(photos, r"photos \(test\): the image .* image_size, such as 224")
    shutil.rmtree(photos / "train")
    shutil.rmtree(photos / "test")
    fill(photos / "train", channels=1)
    fill(photos / "test")
    refused(photos, "is grey, but the test images are in colour")


def test_without_a_test_split_training_goes_on_and_says_so(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "test").rename(photos / "tests")
    assert len(load_parts(recipe(photos))[0]) == 9
    assert "photos has no test/CLASS/IMAGE or val/CLASS/IMAGE; it holds tests, train; training needs no" in caplog.text


def test_names_of_classes_agree_in_tables(tmp_path: Path) -> None:
    def splits(train: list[str], test: list[str]) -> None:
        for split, names in (("train", train), ("test", test)):
            write(tmp_path / f"{split}.parquet", [encoded(i) for i in pixels(6)], [0, 1, 0, 1, 0, 1], names)
        found = (find(f"parquet:{tmp_path}", split) for split in ("train", "test"))  # type: ignore[arg-type]
        check_classes(*found)

    splits(["cat", "dog"], ["cat", "dog"])
    splits(["cat", "dog"], ["0", "1"])
    with pytest.raises(DataError, match=r"has its classes in another order than .*; name them in the same order"):
        splits(["cat", "dog"], ["dog", "cat"])
    with pytest.raises(DataError, match=r"\(test\) has the class 'elk', which .* does not have"):
        splits(["cat", "dog"], ["cat", "dog", "elk"])
    with pytest.raises(DataError, match=r"\(train\) has no image of class 'elk' \(of 3\); add some, or remove"):
        splits(["cat", "dog", "elk"], ["cat", "dog", "elk"])


def test_numbers_of_classes_have_no_gaps_and_agree() -> None:
    def labelled(*labels: int) -> Any:
        return from_arrays(torch.rand(len(labels), 1, 4, 4), labels)

    check_classes(labelled(0, 1, 2), labelled(2, 1, 0))
    with pytest.raises(DataError, match=r"no image of class '2' .* or number the classes 0, 1, 2, ... without gaps"):
        check_classes(labelled(0, 1, 3))
    with pytest.raises(DataError, match="has the label 2, but tensors has 0 to 1 only"):
        check_classes(labelled(0, 1), labelled(0, 1, 2))
    with pytest.raises(DataError, match="has no image of class '2'"):
        check_classes(labelled(0, 1, 2), labelled(0, 1))


def test_a_published_file_that_is_gone(photos: Path) -> None:
    """Tiny ImageNet lists its validation images in a text file."""
    shutil.rmtree(photos / "test")
    (photos / "val" / "images").mkdir(parents=True)
    (photos / "val" / "val_annotations.txt").write_text("val_0.JPEG\ta\t0\t0\t1\t1\n")
    refused(photos, r"val_annotations.txt, line 1: .*val_0.JPEG does not exist; unpack the set anew", image_size=8)


def test_what_was_decoded_is_not_decoded_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = find(f"folder:{photos}", "test")
    assert check_images(test, None) == (3, 8, 6)
    monkeypatch.setattr(decode, "attempt", lambda *_: pytest.fail("decoded again"))
    assert check_images(test, None) == (3, 8, 6)


def test_of_large_sets_to_be_cropped_some_are_decoded(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spread over the set; of a table whole row groups."""
    monkeypatch.setattr(check, "LOOKED_AT", 5)
    seen: list[int] = []

    def decode_centres(data: Any, rows: torch.Tensor, size: int) -> Any:
        seen.extend(rows.tolist())
        return from_arrays(torch.rand(1, 3, size, size), [0])

    monkeypatch.setattr(check, "decode_centres", decode_centres)
    check_images(find(f"folder:{photos}", "test"), 16)  # type: ignore[arg-type]
    assert seen == [0, 2, 5, 8, 11]
    seen.clear()
    write(tmp_path / "test.parquet", [encoded(i) for i in pixels(12)], [0, 1] * 6, group=2)
    check_images(find(f"parquet:{tmp_path}", "test"), 16)
    assert seen == [0, 1, 10, 11]


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_decoding_says_how_far_it_is_where_it_takes_long(
    photos: Path, patience: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"CHUNK": 5, "FIRST_SECONDS": patience, "NEXT_SECONDS": patience}.items():
        monkeypatch.setattr(decode, name, value)
    caplog.set_level("INFO", "headstart")
    check_images(find(f"folder:{photos}", "test"), None)
    said = [record.getMessage() for record in caplog.records]
    if patience:
        assert said == []
    else:
        assert [line.partition(" images decoded, ")[0] for line in said] == [
            "photos (test): 5 of 12",
            "photos (test): 10 of 12",
        ]
        assert all(line.endswith(" s left") for line in said)
