"""Single images: every kind becomes RGB upright, parts are resized as a slow version does it, the rest is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from headstart.data import decode, from_python, in_memory
from headstart.data.decode import centre, resized, whole
from headstart.errors import UserError
from tests.data.pictures import encoded, photograph, pixels, write

COLOUR, GREY = pixels(1, (20, 30))[0], pixels(1, (20, 30), channels=1)[0]


def file(picture: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **settings)
    return stream.getvalue()


def turned(picture: Image.Image, orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(picture, kind, exif=exif)


# -- at their own size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (COLOUR, COLOUR),
        (GREY, GREY[..., None]),
        (GREY[..., None], GREY[..., None]),
        (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
        (torch.from_numpy(COLOUR).permute(2, 0, 1).double() / 255, COLOUR),
        (torch.from_numpy(GREY)[None].float() / 255, GREY[..., None]),
        (Image.fromarray(COLOUR), COLOUR),
        (file(Image.fromarray(COLOUR).convert("RGBA")), COLOUR),
        (file(Image.fromarray(GREY).convert("LA")), np.repeat(GREY[..., None], 3, 2)),
    ],
)
def test_all_that_holds_pixels(image: Any, expected: np.ndarray) -> None:
    assert np.array_equal(whole(image), expected)


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "YCbCr", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "image.tif")
    made = whole(str(tmp_path / "image.tif"))
    assert made.shape == (20, 30, 3)
    assert np.array_equal(made, np.asarray(picture.convert("RGB")))
    assert resized(str(tmp_path / "image.tif"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_held_any_way(orientation: int) -> None:
    """Stored so that turning it as noted gives the picture, whole or in part."""
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    moves = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL's names for the same turns
    stored = Image.fromarray(COLOUR) if back == 1 else Image.fromarray(COLOUR).transpose(Image.Transpose(moves[back]))
    assert np.array_equal(whole(turned(stored, orientation)), COLOUR)
    part = resized(turned(stored, orientation), 10, lambda width, height: (0, 5, 10, 15))
    assert np.array_equal(part, COLOUR[5:15, :10])


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_part_is_what_cutting_and_then_resizing_gives() -> None:
    picture = photograph(90, 70)
    for box in ((0, 0, 90, 70), (10, 20, 50, 44), (3, 5, 17, 68)):
        part = resized(picture, 32, lambda width, height, box=box: box)
        literal = picture.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(part.astype(int) - np.asarray(literal)).max() <= (0 if box == (0, 0, 90, 70) else 6)
        assert np.abs(part.astype(int) - np.asarray(literal)).mean() < 1


def test_the_centre_is_what_validation_on_imagenet_cuts_out() -> None:
    """Shorter side to 256, then the central 224 x 224."""
    picture = photograph(600, 400)
    literal = picture.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    assert np.abs(resized(picture, 224).astype(int) - np.asarray(literal)).max() <= 2
    assert centre(256, 512) == (16, 144, 240, 368)


def test_large_jpegs_are_decoded_small() -> None:
    """In a fraction of the time, and with the same result as at full size, turned or not."""
    picture = photograph(1600, 1200)
    drafts: list[tuple[int, int]] = []

    def spy(image: Image.Image, mode: Any, size: tuple[int, int]) -> Any:
        result = original(image, mode, size)
        drafts.append(image.size)
        return result

    original = type(Image.open(io.BytesIO(file(picture, "JPEG")))).draft
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", spy)
        small = resized(file(picture, "JPEG", quality=95), 128)
        stood = resized(turned(picture.transpose(Image.Transpose.ROTATE_90), 6, "JPEG"), 128)
    assert drafts == [(200, 150), (150, 200)]
    for made in (small, stood):
        assert np.abs(made.astype(int) - resized(picture, 128)).max() <= 8


def test_a_picture_that_is_given_stays_as_it_is() -> None:
    given = Image.open(io.BytesIO(file(photograph(1600, 1200), "JPEG")))  # read when first asked for its pixels
    once, again = resized(given, 64), resized(given, 64)
    assert given.size == (1600, 1200)
    assert np.array_equal(once, again)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (2, 1), (1, 2)])
def test_slivers(size: tuple[int, int]) -> None:
    assert resized(Image.new("RGB", size, (9, 8, 7)), 6).tolist() == [[[9, 8, 7]] * 6] * 6


# -- what is refused --------------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that says it holds side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


NAN, WIDE = torch.rand(3, 5, 5), torch.rand(3, 5, 5)
NAN[1, 2, 3], WIDE[0, 0, 0] = float("nan"), 1.5
BAD: dict[str, tuple[Any, str]] = {
    "nothing": (None, "no image there"),
    "a single pixel": (file(Image.new("RGB", (1, 1))), "a single pixel"),
    "a bomb": (bomb(20_000), "exceeds limit of 178956970 pixels"),
    "16 bits": (file(Image.fromarray(np.full((4, 4), 300, np.uint16))), "more than 8 bits per channel, mode I;16"),
    "floats": (file(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "more than 8 bits per channel, mode F"),
    "nan": (NAN, "NaN pixels"),
    "out of range": (WIDE, r"range from .* to 1\.5, not in \[0, 1\]"),
    "integers": (torch.ones(3, 5, 5, dtype=torch.int64), "pixels are int64"),
    "a batch": (torch.rand(1, 3, 5, 5), r"shape \(1, 3, 5, 5\)"),
    "channels": (torch.rand(2, 5, 5), r"shape \(2, 5, 5\)"),
    "half a jpeg": (file(photograph(200, 200), "JPEG")[:1500], "truncated"),
    "text": (b"not an image", "cannot identify image file"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("size", [None, 8])
def test_bad_images(what: str, size: int | None) -> None:
    """One line with the place and the reason, or left out, at their own size and in part."""
    image, said = BAD[what]

    class Items(Dataset[Any]):
        targets = (0, 1, 1)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, row: int) -> tuple[Any, int]:
            return (image if row == 1 else pixels(1)[0]), 1

    with pytest.raises(UserError, match=f"the image in row 1 cannot be read .*{said}.*on_bad_image skip") as error:
        in_memory(from_python(Items()), size)
    assert "\n" not in str(error.value)
    assert in_memory(from_python(Items()), size, on_bad_image="skip").labels.tolist() == [0, 1]


def test_images_that_do_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.data import load

    write(tmp_path / "train.parquet", [encoded(COLOUR)] * 3, [0, 1, 0])
    monkeypatch.setattr(decode, "available_memory", lambda: 3 * COLOUR.nbytes - 1)
    with pytest.raises(UserError, match=r"3 decoded images of 30x20 need 0\.0 GB of memory, 0\.0 GB are free"):
        load(f"parquet:{tmp_path}", "train")
    monkeypatch.setattr(decode, "available_memory", lambda: 3 * COLOUR.nbytes)
    assert len(load(f"parquet:{tmp_path}", "train")) == 3


def test_the_memory_that_is_free() -> None:
    assert decode.available_memory() > 2**20
