"""The streamed loader keeps the promises of the resident one: order, crops and batches follow from seed and epoch."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.data import Batch, StreamedLoader, StreamedSet, encoded, find
from headstart.data.encoded import EncodedSet, ParquetSet
from headstart.data.streamed import AREA, ASPECT, random_box, random_crop
from headstart.errors import UserError
from tests.data import pictures

N, SIZE = 30, 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> EncodedSet:
    """30 JPEGs of three classes."""
    folder = tmp_path_factory.mktemp("photos")
    pictures.write_photographs(folder / "train", each=10)
    found = find(f"folder:{folder}", "train")
    assert isinstance(found, EncodedSet)
    return found


def parquet(folder: Path, rows: int = N, group: int = 4) -> ParquetSet:
    """Pictures in two files of small row groups; image i has the label i."""
    cells = [pictures.encoded(pictures.photograph(20 + i % 5, 24, seed=i)) for i in range(rows)]
    cut = rows // 3
    for name, part in (("train-0", slice(0, cut)), ("train-1", slice(cut, rows))):
        labels, names = list(range(rows))[part], [str(i) for i in range(rows)]
        pictures.write(folder / f"{name}.parquet", cells[part], labels, names, group=group)
    found = find(f"parquet:{folder}", "train")
    assert isinstance(found, ParquetSet)
    return found


def loader(data: EncodedSet, rows: torch.Tensor | None = None, skip: bool = False, **settings: Any) -> StreamedLoader:
    rows = torch.arange(len(data)) if rows is None else rows
    streamed = StreamedSet(data, rows, SIZE, "skip" if skip else "error", "photos (training part)")
    return StreamedLoader(streamed, **{"batch_size": 8} | settings)


def epoch(data: EncodedSet, number: int = 0, start: int = 0, **settings: Any) -> list[Batch]:
    return list(loader(data, **settings).epoch(number, start))


def rows(batches: list[Batch]) -> list[int]:
    return torch.cat([b.index for b in batches]).tolist()


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.x, b.x) and torch.equal(a.index, b.index) and torch.equal(a.y, b.y)
        for a, b in zip(one, other, strict=True)
    )


# -- what a batch holds -----------------------------------------------------------------------------------------------


def test_batches_equal_images_cropped_one_by_one(photos: EncodedSet) -> None:
    """Of a part of the rows: the index counts in that part, not in the whole set."""
    part = torch.arange(3, N, 2)
    for batch in loader(photos, part, seed=5).epoch(2):
        assert batch.x.dtype == torch.float32
        assert batch.x.shape[1:] == (3, SIZE, SIZE)
        assert batch.x.is_contiguous(memory_format=torch.channels_last)
        assert batch.geometry is None
        assert torch.equal(batch.y, photos.labels[part[batch.index]])
        for x, row in zip(batch.x, batch.index.tolist(), strict=True):
            crop = random_crop(photos.read(int(part[row])), SIZE, random.Random(f"5 2 {row}"))
            assert torch.equal(x, torch.from_numpy(crop.copy()).permute(2, 0, 1).float() / 255)


def test_crops_are_even_in_area_aspect_place_and_side() -> None:
    draw = random.Random(0)
    boxes = np.array([random_box(400, 300, draw) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / (400 * 300), width / height
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 400
    assert boxes[:, 3].max() <= 300
    assert abs(area.min() - AREA[0]) < 0.01
    assert area.max() > 0.95
    assert ASPECT[0] * 0.97 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < ASPECT[1] * 1.03
    small = area < 0.3  # which fit at the first attempt
    assert abs(np.log(aspect[small]).mean()) < 0.02
    assert abs(area[small].mean() - (AREA[0] + 0.3) / 2) < 0.01
    for low, room in ((boxes[:, 0], 400 - width), (boxes[:, 1], 300 - height)):
        assert abs((low[small] / room[small]).mean() - 0.5) < 0.02
    mirrored = [random_crop(np.arange(2, dtype=np.uint8)[None], 2, random.Random(i))[0, 0, 0] > 0 for i in range(400)]
    assert abs(np.mean(mirrored) - 0.5) < 0.1


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 2), (5000, 40)])
def test_images_that_no_crop_fits(size: tuple[int, int]) -> None:
    """The largest part of nearly the right aspect, in the middle."""
    width, height = size
    left, top, right, bottom = random_box(width, height, random.Random(1))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if max(size) > 2:
        assert math.isclose(left + right, width, abs_tol=1)
        assert min(right - left, bottom - top) == min(size)


# -- what the order follows from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_row_once_an_epoch(photos: EncodedSet, drop_last: bool) -> None:
    batches = epoch(photos, drop_last=drop_last)
    seen = rows(batches)
    assert [len(b.y) for b in batches] == [8] * 3 + ([] if drop_last else [6])
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)
    about = loader(photos, drop_last=drop_last)
    assert (about.batches, about.samples, about.shape, about.pad) == (len(batches), N, (3, SIZE, SIZE), 0)


def test_an_epoch_follows_from_seed_and_number_alone(photos: EncodedSet) -> None:
    """Whatever was read before, whatever the random state, with any number of workers."""
    torch.manual_seed(1)
    again = loader(photos)
    first, third = list(again.epoch(0)), list(again.epoch(2))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(epoch(photos, 2), third)
    assert same(list(again.epoch(0)), first)
    assert same(epoch(photos, 2, workers=2), third)
    assert same(epoch(photos, 2, workers=1), third)
    assert torch.equal(torch.get_rng_state(), before)
    orders = [rows(epoch(photos, n, seed=s)) for n in range(2) for s in (0, 1, 2**32 - 1)]
    assert len({tuple(order) for order in orders}) == 2 * 3
    of_first = {row: x for b in first for row, x in zip(b.index.tolist(), b.x, strict=True)}
    assert not any(torch.equal(of_first[row], x) for b in third for row, x in zip(b.index.tolist(), b.x, strict=True))


@pytest.mark.parametrize("start", [0, 1, 3, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_entered_at_any_batch(photos: EncodedSet, start: int, workers: int) -> None:
    assert same(epoch(photos, 1, start=start, workers=workers), epoch(photos, 1)[start:])


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_rows(photos: EncodedSet, world: int) -> None:
    """Each keeps every world-th row for good, as the resident loader does: per-sample memory rests on it."""
    shares = [rows(epoch(photos, rank=rank, world_size=world, batch_size=4)) for rank in range(world)]
    for rank, share in enumerate(shares):
        assert sorted(share) == list(range(rank, N - N % world, world))
        assert sorted(rows(epoch(photos, 3, rank=rank, world_size=world))) == sorted(share)
    places = [[row // world for row in share] for share in shares]
    assert places[0] != places[1]


# -- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_is_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled in a buffer: a group is read once or twice an epoch, not once for each of its rows."""
    monkeypatch.setattr(encoded, "SHUFFLE_BUFFER", 10)
    monkeypatch.setattr("headstart.data.streamed.SHUFFLE_BUFFER", 10)
    data = parquet(tmp_path)
    assert data.groups is not None
    assert data.groups.bincount().tolist() == [4, 4, 2, 4, 4, 4, 4, 4]
    reads: Counter[int] = Counter()
    original = ParquetSet._read_group

    def spy(self: ParquetSet, group: int) -> Any:
        reads[group] += 1
        return original(self, group)

    monkeypatch.setattr(ParquetSet, "_read_group", spy)
    seen = rows(epoch(data))
    assert sorted(seen) == list(range(N))
    assert set(reads) == set(range(8))
    assert max(reads.values()) <= 2
    assert sum(map(len, data._kept.values())) <= 10 + 2 * 4
    windows = [{int(data.groups[row]) for row in seen[i : i + 10]} for i in range(0, N, 10)]
    assert all(len(groups) <= 5 for groups in windows)  # rows of few groups at a time
    assert [int(data.groups[row]) for row in seen] != sorted(int(data.groups[row]) for row in seen)
    for batch in loader(data).epoch(1):
        assert torch.equal(batch.y, batch.index)
    assert rows(epoch(data, 1)) != seen


def test_parquet_batches_do_not_depend_on_who_reads(tmp_path: Path) -> None:
    data = parquet(tmp_path)
    assert same(epoch(data, 1, workers=2), epoch(data, 1))
    assert same(epoch(data, 1, start=2), epoch(data, 1)[2:])


def test_a_row_group_that_is_damaged(tmp_path: Path) -> None:
    data = parquet(tmp_path)
    path = tmp_path / "train-1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(300) + whole[400:])
    with pytest.raises(
        UserError, match=r"cannot read row group \d of .*train-1.parquet|image in row \d+ cannot be read"
    ):
        epoch(data)


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> EncodedSet:
    """Twelve images, of which train/cat/1.jpg and train/owl/0.jpg are not."""
    pictures.write_photographs(tmp_path / "train", each=4)
    for place in ("cat/1.jpg", "owl/0.jpg"):
        (tmp_path / "train" / place).write_bytes(b"no image")
    found = find(f"folder:{tmp_path}", "train")
    assert isinstance(found, EncodedSet)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop_the_run(damaged: EncodedSet, workers: int) -> None:
    with pytest.raises(
        UserError, match=r"the image train/(cat/1|owl/0)\.jpg cannot be read \(cannot identify"
    ) as error:
        epoch(damaged, workers=workers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out(damaged: EncodedSet, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    """Their batches are smaller, and they are counted once."""
    stream = loader(damaged, skip=True, workers=workers, batch_size=4)
    seen = []
    for number in range(2):
        batches = list(stream.epoch(number))
        assert sum(len(b.y) for b in batches) == 10
        for batch in batches:
            assert len(batch.x) == len(batch.y) == len(batch.index)
            assert torch.equal(batch.y, damaged.labels[batch.index])
            assert (batch.x.flatten(1).amax(1) > 0).all()
        seen.append(sorted(rows(batches)))
    assert seen[0] == seen[1]
    missing = {damaged.place(row) for row in set(range(12)) - set(seen[0])}
    assert missing == {"train/cat/1.jpg", "train/owl/0.jpg"}
    assert caplog.text.count("2 of 12 images cannot be read and are left out") == 1


def test_a_batch_without_any_image(damaged: EncodedSet) -> None:
    row = next(row for row in range(12) if damaged.place(row) == "train/cat/1.jpg")
    with pytest.raises(UserError, match="no image of a whole batch can be read"):
        epoch(damaged, rows=torch.tensor([row]), skip=True)


class Deadly(EncodedSet):
    """Reading ends the process, as the system does when memory runs out."""

    def read(self, row: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Patient(EncodedSet):
    """Images that exist only where Ctrl-C and SIGTERM change nothing."""

    def read(self, row: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return np.full((9, 9, 3), row, np.uint8)


def test_a_worker_that_is_killed() -> None:
    data = Deadly(torch.zeros(8, dtype=torch.int64), ("a",), "photos")
    with pytest.raises(UserError, match=r"a process that decodes images was killed .*try fewer workers than 1"):
        epoch(data, workers=1)


def test_workers_leave_signals_to_the_run() -> None:
    data = Patient(torch.zeros(8, dtype=torch.int64), ("a",), "photos")
    assert sorted(rows(epoch(data, workers=2, batch_size=3))) == list(range(8))
