"""Data sets by name: what is read is what was written, and what is wrong with a file is said in one line."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from headstart.data import decode, load
from headstart.data.encoded import EncodedSet
from headstart.errors import UserError
from tests.data.pictures import encoded, pixels, write

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def source(folder: Path) -> str:
    return f"parquet:{folder}"


def refused(folder: Path, said: str, split: str = "train", on_bad_image: str = "error") -> None:
    with pytest.raises(UserError, match=said) as error:
        load(source(folder), split, on_bad_image)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_always_split_alike() -> None:
    from sklearn.datasets import load_digits

    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert train.shape == test.shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    assert (train.checksum(), test.checksum()) == (
        "50d4cd5ba1dafc72fc9ce0f4a86d1bc0",
        "983b30bb6ea71c74d7e2be90813232fe",
    )
    whole = torch.cat([train.images, test.images]).flatten(1)
    original = torch.from_numpy(load_digits().data)
    together = sorted(map(tuple, (whole.double() / 255 * 16).round().tolist()))
    assert together == sorted(map(tuple, original.tolist()))


# -- reading ----------------------------------------------------------------------------------------------------------


def test_reads_what_was_written(folder: Path) -> None:
    """Over two files, in the order of their names; where there are no test files, validation is the test split."""
    images = pixels(5)
    write(folder / "train-00001.parquet", [encoded(i) for i in images[3:]], [1, 0], ["cat", "dog", "eel"])
    write(folder / "train-00000.parquet", [encoded(i) for i in images[:3]], [0, 1, 0], ["cat", "dog", "eel"])
    write(folder / "valid-0.parquet", [encoded(i) for i in images[:1]], [1], ["cat", "dog", "eel"])
    data = load(source(folder), "train")
    assert np.array_equal(data.images.numpy(), images)
    assert data.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.classes == ("cat", "dog", "eel")
    assert data.shape == (3, 8, 6)
    assert data.name == "pets (train)"
    assert load(source(folder), "test").labels.tolist() == [1]
    write(folder / "test.parquet", [encoded(i) for i in images[:2]], [2, 2], ["cat", "dog", "eel"])
    assert load(source(folder), "test").labels.tolist() == [2, 2]


def test_reads_jpeg(folder: Path) -> None:
    smooth = np.full((8, 8, 3), [200, 100, 50], np.uint8)
    write(folder / "train.parquet", [encoded(smooth, "JPEG")], [0])
    read = load(source(folder), "train").images[0].int()
    assert (read - torch.from_numpy(smooth).int()).abs().max() <= 3


def test_grey_stays_grey_and_becomes_rgb_among_colours(folder: Path) -> None:
    grey, colour = pixels(2, channels=1), pixels(1)
    write(folder / "train.parquet", [encoded(i) for i in grey], [0, 1])
    write(folder / "test.parquet", [encoded(grey[0]), encoded(colour[0]), encoded(grey[1])], [0, 1, 0])
    alone, mixed = load(source(folder), "train"), load(source(folder), "test")
    assert alone.shape == (1, 8, 6)
    assert np.array_equal(alone.images.numpy()[..., 0], grey)
    assert np.array_equal(mixed.images[1].numpy(), colour[0])
    for row, image in ((0, grey[0]), (2, grey[1])):
        assert np.array_equal(mixed.images[row].numpy(), np.repeat(image[..., None], 3, 2))


def test_palettes_transparency_and_orientation(folder: Path) -> None:
    palette = Image.fromarray(pixels(1)[0]).quantize(4)
    clear = Image.fromarray(pixels(1)[0]).convert("RGBA")
    wide = Image.fromarray(pixels(1, size=(6, 8))[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    stream = io.BytesIO()
    wide.save(stream, "PNG", exif=exif)
    turned = {"bytes": stream.getvalue(), "path": None}
    write(folder / "train.parquet", [encoded(palette), encoded(clear), turned], [0, 1, 2])
    read = load(source(folder), "train").images.numpy()
    assert np.array_equal(read[0], np.asarray(palette.convert("RGB")))
    assert np.array_equal(read[1], pixels(1)[0])
    assert np.array_equal(read[2], np.rot90(pixels(1, size=(6, 8))[0], -1))


def test_reads_files_that_cells_point_to(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels(1)[0]).save(tmp_path / "one.png")
    write(folder / "train.parquet", [{"bytes": None, "path": str(tmp_path / "one.png")}], [0])
    assert np.array_equal(load(source(folder), "train").images.numpy(), pixels(1))


def test_classes_without_names_are_numbered(folder: Path) -> None:
    write(folder / "train.parquet", [encoded(i) for i in pixels(3)], [0, 2, 2])
    assert load(source(folder), "train").classes == ("0", "1", "2")
    plain = pq.read_table(folder / "train.parquet").replace_schema_metadata(None)
    pq.write_table(plain, folder / "test.parquet")
    assert load(source(folder), "test").classes == ("0", "1", "2")


# -- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label", "further"),
    [
        ("img", "label", {}),
        ("image", "fine_label", {"coarse_label": pa.array([7, 7], pa.int64())}),  # as CIFAR-100
        ("picture", "species_label", {"id": pa.array([5, 6], pa.int64()), "note": pa.array(["a", "b"])}),
        ("image", "labels", {"width": pa.array([8, 8], pa.int64())}),
    ],
)
def test_finds_the_columns(folder: Path, image: str, label: str, further: dict[str, pa.Array]) -> None:
    cells = [encoded(i) for i in pixels(2)]
    write(folder / "train.parquet", cells, [1, 0], ["no", "yes"], image, label, **further)
    data = load(source(folder), "train")
    assert data.labels.tolist() == [1, 0]
    assert data.classes == ("no", "yes")


def test_columns_that_cannot_be_told_apart_are_named(folder: Path) -> None:
    cells = [encoded(i) for i in pixels(2)]
    further = {"target_label": pa.array([0, 0], pa.int64())}
    write(folder / "train.parquet", cells, [1, 0], None, "img", "my_label", **further)
    refused(folder, "exactly one label column, found my_label, target_label among img, my_label, target_label")
    write(folder / "train.parquet", cells, [1, 0], None, "img", "answer")
    refused(folder, "exactly one label column, found none among img, answer")
    pq.write_table(pa.table({"label": [1, 0], "x": [0.5, 0.5]}), folder / "train.parquet")
    refused(folder, "exactly one image column, found none among label, x")


def test_columns_by_name(folder: Path) -> None:
    """Where more than one fits, or none is called what it should be; bytes alone will do."""
    images = pixels(2)
    cells = [encoded(i) for i in images]
    second = pa.array([encoded(i) for i in images[::-1]], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    plain = pa.array([cell["bytes"] for cell in cells if cell], pa.binary())
    further = {"mask": second, "raw": plain, "answer": pa.array([1, 1], pa.int32()), "text": pa.array(["a", "b"])}
    write(folder / "train.parquet", cells, [0, 1], ["a", "b"], "photo", "label", **further)
    refused(folder, "exactly one image column, found photo, mask among .*; name it with image_column")
    for column, expected in (("photo", images), ("mask", images[::-1]), ("raw", images)):
        data = load(source(folder), "train", image_column=column, label_column="answer")
        assert np.array_equal(data.images.numpy(), expected)
        assert data.labels.tolist() == [1, 1]
    for image, label, said in [
        ("phto", None, "image_column 'phto' does not exist; columns that hold encoded images: photo, mask"),
        ("text", None, "image_column 'text' holds string"),
        ("photo", "text", "label_column 'text' holds string; columns that hold whole numbers: label, answer"),
        ("photo", "lable", "label_column 'lable' does not exist"),
    ]:
        with pytest.raises(UserError, match=said):
            load(source(folder), "train", image_column=image, label_column=label)


def test_secret_labels_give_way_to_validation(folder: Path) -> None:
    """As in ImageNet, whose test split is published with labels of -1."""
    cells = [encoded(i) for i in pixels(2)]
    write(folder / "data" / "test-0.parquet", cells, [-1, -1], ["a", "b"])
    refused(folder, "every label is -1", "test")
    write(folder / "data" / "validation-0.parquet", cells, [1, 0], ["a", "b"])
    assert load(source(folder), "test").labels.tolist() == [1, 0]


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Stands in for the hub: split names to parquet files, which ``datasets`` prepares as it does the hub's."""
    splits: dict[str, Path] = {}
    original = datasets.load_dataset

    def load_dataset(hub_id: str, split: str) -> Any:
        assert hub_id == "owner/pets"
        files = {name: str(path) for name, path in splits.items()}
        return original("parquet", data_files=files, split=split, cache_dir=str(tmp_path / "hub"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    datasets.disable_progress_bars()
    return splits


def test_reads_the_hub(hub: dict[str, Path], folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(3)
    cells = [encoded(i) for i in images]
    hub["train"] = write(folder / "a.parquet", cells, [0, 2, 1], ["ant", "bee", "cat"])
    hub["valid"] = write(folder / "b.parquet", cells[:1], [2], ["ant", "bee", "cat"])
    train, test = load("hub:owner/pets", "train"), load("hub:owner/pets", "test")
    assert np.array_equal(train.images.numpy(), images)
    assert train.labels.tolist() == [0, 2, 1]
    assert (train.classes, train.name) == (("ant", "bee", "cat"), "owner/pets (train)")
    assert test.labels.tolist() == [2]
    decoded = decodings(monkeypatch)
    assert load("hub:owner/pets", "train").checksum() == train.checksum()
    assert (decoded, len(list(cache.iterdir()))) == ([], 2)


def test_a_hub_set_without_such_a_split(hub: dict[str, Path], folder: Path) -> None:
    hub["train"] = write(folder / "a.parquet", [encoded(pixels(1)[0])], [0])
    with pytest.raises(UserError, match=r"owner/pets has no split for this: Unknown split .test."):
        load("hub:owner/pets", "test")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            datasets.exceptions.DatasetNotFoundError(
                "Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub.\nVisit the page"
            ),
            r"given on request: accept its terms at https://huggingface.co/datasets/ILSVRC/imagenet-1k.*hf auth login",
        ),
        (
            ConnectionError("Couldn't reach it\nMore"),
            r"neither cached nor reachable \(Couldn't reach it\).*HEADSTART_DATA",
        ),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist on the Hub"), "neither cached nor reachable"),
    ],
)
def test_the_hub_refuses(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(hub_id: str, split: str) -> None:
        raise error

    monkeypatch.delenv("HEADSTART_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=said) as caught:
        load("imagenet", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet", "imagenet"])
def test_every_benchmark_set_can_be_a_local_copy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path))
    cells = [encoded(i) for i in pixels(2)]
    write(tmp_path / name / "train-00000-of-00001.parquet", cells, [1, 0], ["a", "b"])
    assert load(name, "train").labels.tolist() == [1, 0]


# -- what is wrong with it --------------------------------------------------------------------------------------------


def test_missing_folder_files_and_names(folder: Path) -> None:
    refused(folder, "data folder .*pets does not exist")
    write(folder / "train.parquet", [encoded(pixels(1)[0])], [0])
    refused(folder, r"has no test\*\.parquet or val\*\.parquet; it holds train.parquet", "test")
    with pytest.raises(UserError, match="unknown data set 'cifra10'; did you mean 'cifar10'"):
        load("cifra10", "train")


def test_a_bare_path_is_told_what_to_put_before_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "train.parquet", [encoded(pixels(1)[0])], [0])
    (tmp_path / "photos" / "train" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given, meant in [
        (str(folder), f"parquet:{folder}$"),
        ("photos", "folder:photos$"),
        ("photos/", "folder:photos/$"),
        ("gone/away", "folder:gone/away or parquet:gone/away$"),
    ]:
        with pytest.raises(UserError, match=f"data '{given}' is a path; say what it holds: {meant}"):
            load(given, "train")


def test_labels_in_words_are_seen_and_refused(folder: Path) -> None:
    cells = pa.array([encoded(i) for i in pixels(2)], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    folder.mkdir()
    pq.write_table(pa.table({"img": cells, "label": ["cat", "dog"]}), folder / "train.parquet")
    refused(folder, "column label holds string; labels must be whole numbers: write 0, 1, 2, ... for the classes")


def test_truncated_parquet(folder: Path, cache: Path) -> None:
    path = write(folder / "train.parquet", [encoded(i) for i in pixels(4)], [0] * 4)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:3], b"", whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(broken)
        refused(folder, "cannot|no readable|can be read")
    path.write_bytes(whole)
    assert len(load(source(folder), "train")) == 4


def test_files_of_different_columns(folder: Path) -> None:
    write(folder / "train-0.parquet", [encoded(pixels(1)[0])], [0])
    write(folder / "train-1.parquet", [encoded(pixels(1)[0])], [0], image="image")
    refused(folder, "train-1.parquet has no column img, but .*train-0.parquet has")


def test_empty_split(folder: Path) -> None:
    write(folder / "train.parquet", [], [])
    refused(folder, "the split is empty")


def test_images_of_different_sizes(folder: Path) -> None:
    cells = [encoded(pixels(1)[0]), None, encoded(pixels(1, size=(8, 7))[0])]
    write(folder / "train.parquet", cells, [0, 1, 0])
    refused(folder, "the image in row 2 is 7x8, the image in row 0 is 6x8; image_size", on_bad_image="skip")


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 3, 1], ["a", "b", "c"], "label 3 in row 1; allowed: 0 to 2"),
        ([0, 1, -1], ["a", "b"], "label -1 in row 2; allowed: 0 to 1"),
        ([0, -1, 1], None, "label -1 in row 1"),
        ([0, None, 1], None, "row 1 has no label"),
    ],
)
def test_labels_outside_the_classes(folder: Path, labels: list[int | None], names: list[str] | None, said: str) -> None:
    write(folder / "train.parquet", [encoded(i) for i in pixels(3)], labels, names)
    refused(folder, said)


def half(cell: dict[str, bytes] | None) -> dict[str, bytes | None]:
    assert cell is not None
    return {"bytes": cell["bytes"][: len(cell["bytes"]) // 2], "path": None}


BAD: dict[str, Any] = {
    "half a png": half(encoded(pixels(1)[0])),
    "half a jpeg": half(encoded(pixels(1, size=(64, 64))[0], "JPEG")),
    "text": {"bytes": b"not an image", "path": None},
    "nothing": {"bytes": b"", "path": None},
    "no bytes": {"bytes": None, "path": None},
    "null": None,
    "a path to nowhere": {"bytes": None, "path": "nowhere.png"},
}


@pytest.mark.parametrize("what", BAD)
def test_unreadable_images(folder: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Named by their row, or left out, counted and with the labels of the others where they belong."""
    images = pixels(5)
    cells = [encoded(i) for i in images]
    cells[1] = cells[3] = BAD[what]
    write(folder / "train.parquet", cells, [0, 1, 2, 3, 4])
    refused(folder, r"the image in row 1 cannot be read \(.+\); .*on_bad_image skip")
    for _ in range(2):  # decoded, and from the cache
        data = load(source(folder), "train", "skip")
        assert np.array_equal(data.images.numpy(), images[[0, 2, 4]])
        assert data.labels.tolist() == [0, 2, 4]
        assert "2 of 5 images cannot be read and are left out, the first in row 1" in caplog.text
        caplog.clear()
    refused(folder, "row 1")  # what was skipped once is not accepted from the cache


def test_no_readable_image_at_all(folder: Path) -> None:
    write(folder / "train.parquet", [BAD["text"], None], [0, 1])
    refused(folder, "none of 2 images can be read", on_bad_image="skip")


# -- the cache --------------------------------------------------------------------------------------------------------


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with the name of every set that is decoded from now on."""
    names: list[str] = []
    original = decode._decode

    def spy(data: EncodedSet, *settings: Any, **further: Any) -> object:
        names.append(data.name)
        return original(data, *settings, **further)

    monkeypatch.setattr(decode, "_decode", spy)
    return names


def test_decodes_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "train.parquet", [encoded(i) for i in pixels(4)], [0, 1, 0, 1], ["a", "b"])
    decoded = decodings(monkeypatch)
    first = load(source(folder), "train")
    moved = folder.rename(folder.with_name("moved"))
    second = load(source(moved), "train")
    assert decoded == ["pets (train)"]
    assert (second.name, second.classes) == ("moved (train)", first.classes)
    assert second.checksum() == first.checksum()
    write(moved / "train.parquet", [encoded(i) for i in pixels(4)], [1, 1, 0, 1], ["a", "b"])
    assert load(source(moved), "train").labels.tolist() == [1, 1, 0, 1]
    assert len(list(cache.iterdir())) == len(decoded) == 2


@pytest.mark.parametrize("where", ["header", "metadata", "pixels", "labels", "end", "all", "emptied"])
def test_heals_a_damaged_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    write(folder / "train.parquet", [encoded(i) for i in pixels(4)], [0, 1, 0, 1], ["ant", "bee"])
    before = load(source(folder), "train")
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    data = bytearray(good)
    header = 8 + int.from_bytes(data[:8], "little")
    if where == "header":
        data[3] = 0xFF
    elif where == "metadata":
        data = data.replace(b"bee", b'b"e')
    elif where == "pixels":
        data[-100] ^= 1
    elif where == "labels":
        data[header : header + 8] = b"\x7f" * 8
        data[-8:] = b"\x7f" * 8
    elif where == "end":
        del data[-40:]
    else:
        data = bytearray() if where == "emptied" else bytearray(hashlib.sha256(data).digest() * 4)
    kept.write_bytes(data)
    assert kept.read_bytes() != good
    decoded = decodings(monkeypatch)
    healed = load(source(folder), "train")
    assert healed.checksum() == before.checksum()
    assert healed.classes == ("ant", "bee")
    assert load(source(folder), "train").checksum() == before.checksum()
    assert decoded == ["pets (train)"]  # once more, and then it is whole again


def test_works_without_a_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file" / "cache"))
    write(folder / "train.parquet", [encoded(i) for i in pixels(2)], [0, 1])
    assert len(load(source(folder), "train")) == 2
    assert "not kept for the next time" in caplog.text


# -- real data --------------------------------------------------------------------------------------------------------


def test_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / "cifar10").is_dir():
        pytest.skip("there is no copy of CIFAR-10 in ../shared/data/cifar10")
    monkeypatch.setenv("HEADSTART_DATA", str(SHARED))
    test = load("cifar10", "test")
    assert test.images.shape == (10_000, 32, 32, 3)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.classes[:3] == ("airplane", "automobile", "bird")
    channels = (test.images.float() / 255).mean((0, 1, 2))
    torch.testing.assert_close(channels, torch.tensor([0.494, 0.485, 0.450]), atol=0.005, rtol=0)
    assert load(f"parquet:{SHARED / 'cifar10'}", "test").checksum() == test.checksum()


def test_tiny_imagenet_mixes_grey_and_colour() -> None:
    if not (SHARED / "tiny-imagenet").is_dir():
        pytest.skip("there is no sample of Tiny ImageNet in ../shared/data/tiny-imagenet")
    valid = load(f"parquet:{SHARED / 'tiny-imagenet'}", "test")
    assert valid.images.shape == (800, 64, 64, 3)
    assert valid.labels.bincount().tolist() == [4] * 200
    grey = (valid.images == valid.images[..., :1]).flatten(1).all(1)
    assert 0 < int(grey.sum()) < 80
