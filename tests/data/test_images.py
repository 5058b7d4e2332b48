"""Sets of images: what they refuse, how they are divided, and how they are made from arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headstart.data import ImageSet
from headstart.data.images import from_arrays
from headstart.errors import UserError


def numbered(n: int) -> ImageSet:
    """Image i has the value i in every pixel, and the label i modulo 4."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 4, 5, 3).clone()
    return ImageSet(images, torch.arange(n) % 4, ("a", "b", "c", "d"), "numbers")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": torch.zeros(2, 4, 4, 3)}, "images are torch.float32"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, r"\(2, 3, 4, 4\); expected uint8 \(N, H, W, 1 or 3\)"),
        ({"images": torch.zeros(2, 4, 4, dtype=torch.uint8)}, "expected uint8"),
        ({"images": torch.zeros(3, 4, 4, 1, dtype=torch.uint8)}, "3 images but 2 labels"),
        ({"images": torch.zeros(0, 4, 4, 1, dtype=torch.uint8), "labels": torch.zeros(0)}, "the split is empty"),
        ({"labels": torch.tensor([0, 2])}, "label 2 in row 1; allowed: 0 to 1"),
        ({"labels": torch.tensor([-3, 0])}, "label -3 in row 0"),
    ],
)
def test_refuses(change: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {
        "images": torch.zeros(2, 4, 4, 1, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "name": "set",
    }
    ImageSet(**good)
    with pytest.raises(UserError, match=said):
        ImageSet(**good | change)


def test_the_validation_part_is_fixed_and_apart() -> None:
    data = numbered(50)
    torch.manual_seed(1)
    train, val = data.split(10)
    torch.manual_seed(2)
    again = numbered(50).split(10)
    assert (len(train), len(val)) == (40, 10)
    assert sorted(train.images[:, 0, 0, 0].tolist() + val.images[:, 0, 0, 0].tolist()) == list(range(50))
    assert torch.equal(val.images, again[1].images)
    assert torch.equal(train.images, again[0].images)
    for part in (train, val):
        assert torch.equal(part.labels, part.images[:, 0, 0, 0].long() % 4)
        assert part.classes == data.classes
    assert val.images[:, 0, 0, 0].tolist() != list(range(10))  # drawn, not cut off


@pytest.mark.parametrize("size", [0, 50, 51, -1])
def test_a_validation_part_must_leave_something(size: int) -> None:
    with pytest.raises(UserError, match=f"val_size is {size}; numbers has 50 images, so 1 to 49"):
        numbered(50).split(size)


def test_checksum_sees_pixels_and_labels() -> None:
    data, other = numbered(8), numbered(8)
    assert data.checksum() == other.checksum()
    other.images[7, 3, 4, 2] += 1
    third = ImageSet(data.images, data.labels.flip(0), data.classes, "numbers")
    assert len({data.checksum(), other.checksum(), third.checksum()}) == 3


def test_from_arrays_keeps_every_pixel() -> None:
    original = torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    forms: list[tuple[Any, Any]] = [
        (original, labels),
        (original.float() / 255, labels.tolist()),
        (original.numpy() / 255, labels.numpy().astype(np.int32)),
        (original.numpy(), labels.to(torch.uint8)),
    ]
    for images, y in forms:
        data = from_arrays(images, y)
        assert torch.equal(data.tensors()[0], original)
        assert torch.equal(data.labels, labels)
        assert data.labels.dtype == torch.int64
        assert data.classes == ("0", "1", "2")


def spoiled(value: float) -> Tensor:
    images = torch.rand(3, 1, 4, 4)
    images[1, 0, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (spoiled(float("nan")), [0, 1, 0], "image 1 has NaN pixels"),
        (spoiled(1.5), [0, 1, 0], r"to 1\.5; they must lie in \[0, 1\] \(divide by 255"),
        (spoiled(-0.25), [0, 1, 0], "range from -0.25 to"),
        (spoiled(float("inf")), [0, 1, 0], "to inf; they must lie"),
        (torch.rand(3, 4, 4), [0, 1, 0], r"shape \(3, 4, 4\); expected \(N, C, H, W\)"),
        (torch.rand(3, 4, 4, 3), [0, 1, 0], r"torch.float32 of shape \(3, 4, 4, 3\).* permute\(0, 3, 1, 2\)"),
        (torch.rand(3, 4, 4, 4), [0, 1, 0], r"torch.float32 of shape \(3, 4, 4, 4\); .* C 1 or 3$"),
        (torch.rand(3, 1, 4, 4), ["cat", "dog", "cat"], "labels must be whole numbers, 0, 1, 2"),
        (torch.rand(3, 1, 4, 4), [0.0, 1.0, 0.0], r"labels are torch.float32 \(3,\); expected \(N,\) integers"),
        (torch.rand(3, 1, 4, 4), [[0], [1], [0]], r"labels are torch.int64 \(3, 1\)"),
        (torch.rand(3, 1, 4, 4), [0, 1], "3 images but 2 labels"),
        (torch.rand(3, 1, 4, 4), [0, -1, 1], "label -1 in row 1"),
        (torch.rand(0, 1, 4, 4), torch.zeros(0, dtype=torch.long), "the split is empty"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), [0, 1, 0], "torch.int64"),
    ],
)
def test_from_arrays_refuses(images: Tensor, labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_arrays(images, labels)
