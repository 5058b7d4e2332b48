"""The loader against one that handles every image by itself, and the promises that resuming rests on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.data import Batch, ImageSet, ResidentLoader

N = 50


def images(channels: int = 3) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (N, 7, 6, channels), generator=draw, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 5, (N,), generator=draw), tuple("abcde"), "noise")


def epoch(number: int = 0, start: int = 0, **settings: Any) -> list[Batch]:
    return list(ResidentLoader(images(), **{"batch_size": 8, "pad": 2} | settings).epoch(number, start))


def rows(batches: list[Batch]) -> list[int]:
    return torch.cat([b.index for b in batches]).tolist()


def augmented(pixels: Tensor, pad: int, top: int, left: int, flipped: int) -> Tensor:
    """One image (H, W, C): zeros around it, cut out, mirrored; (C, H, W) in [0, 1]."""
    height, width, _ = pixels.shape
    framed = F.pad(pixels.permute(2, 0, 1), (pad, pad, pad, pad))
    cut = framed[:, top : top + height, left : left + width]
    return (cut.flip(2) if flipped else cut).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_batches_equal_images_treated_one_by_one(channels: int, pad: int) -> None:
    data = images(channels)
    for batch in ResidentLoader(data, 8, pad=pad, seed=3).epoch(2):
        assert batch.x.dtype == torch.float32
        assert batch.x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.y, data.labels[batch.index])
        assert (batch.geometry is None) == (pad == 0)
        for i, row in enumerate(batch.index.tolist()):
            geometry = [pad, pad, 0] if batch.geometry is None else batch.geometry[i].tolist()
            assert torch.equal(batch.x[i], augmented(data.images[row], pad, *geometry))


def test_crops_and_flips_are_drawn_evenly() -> None:
    geometry = torch.cat([b.geometry for n in range(40) for b in epoch(n) if b.geometry is not None])
    assert geometry.shape == (40 * N, 3)
    for column, values in ((0, 5), (1, 5), (2, 2)):
        counts = geometry[:, column].bincount(minlength=values)
        assert len(counts) == values
        assert int((counts - 40 * N / values).abs().max()) < 5 * (40 * N / values) ** 0.5
    offsets = geometry.double()
    assert float(torch.corrcoef(offsets.T).fill_diagonal_(0).abs().max()) < 0.1  # drawn independently


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_row_once_an_epoch(drop_last: bool) -> None:
    batches = epoch(drop_last=drop_last)
    seen = rows(batches)
    assert [len(b.y) for b in batches] == [8] * 6 + ([] if drop_last else [2])
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)
    if not drop_last:
        assert sorted(seen) == list(range(N))
    loader = ResidentLoader(images(), 8, drop_last=drop_last)
    assert (loader.batches, loader.samples) == (len(batches), N)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.x, b.x) and torch.equal(a.index, b.index) and torch.equal(a.y, b.y)
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_follows_from_seed_and_number_alone() -> None:
    torch.manual_seed(1)
    loader = ResidentLoader(images(), 8, pad=2)
    first, third = list(loader.epoch(0)), list(loader.epoch(2))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(epoch(2), third)
    assert same(list(loader.epoch(0)), first)
    assert torch.equal(torch.get_rng_state(), before)
    orders = [rows(epoch(n, seed=s)) for n in range(3) for s in (0, 1, 2, 20_250_101, 2**32 - 1)]
    assert len({tuple(order) for order in orders}) == 3 * 5


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_an_epoch_can_be_entered_at_any_batch(start: int) -> None:
    assert same(epoch(1, start=start), epoch(1)[start:])


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_rows(world: int) -> None:
    """Each keeps its share for good; what does not divide is left out at the end of the set."""
    shares = []
    for rank in range(world):
        loader = ResidentLoader(images(), 4, rank=rank, world_size=world)
        share = rows(list(loader.epoch(0)))
        assert sorted(share) == sorted(rows(list(loader.epoch(5))))
        assert loader.samples == N // world
        for batch in loader.epoch(0):
            assert torch.equal(batch.y, images().labels[batch.index])
        shares.append(share)
    together = [row for share in shares for row in share]
    assert sorted(together) == list(range(N - N % world))
    places = [[row // world for row in share] for share in shares]
    assert places[0] != places[1]  # they do not go through their shares in step
