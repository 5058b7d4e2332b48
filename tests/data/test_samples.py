"""Training on the first samples of a set alone."""

from __future__ import annotations

import pytest
import torch

from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.recipes.reader import load_recipe
from headstart.training.feed import load_parts


@pytest.fixture
def numbered() -> ImageSet:
    """100 images that hold their own row."""
    rows = torch.arange(100, dtype=torch.uint8)
    return ImageSet(rows.view(-1, 1, 1, 1).repeat(1, 4, 4, 1), torch.arange(100) % 2, ("even", "odd"), "numbers")


def test_only_the_first_samples_are_divided(numbered: ImageSet) -> None:
    train, val = load_parts(load_recipe("digits/fgsm", samples=30, val_size=10), numbered)
    assert isinstance(train, ImageSet)
    rows = torch.cat([part.images[:, 0, 0, 0] for part in (train, val)])
    assert (len(train), len(val)) == (20, 10)
    assert rows.sort().values.tolist() == list(range(30))


def test_more_samples_than_there_are(numbered: ImageSet) -> None:
    with pytest.raises(UserError, match="samples is 101; numbers has 100 images"):
        load_parts(load_recipe("digits/fgsm", samples=101), numbered)


def test_samples_must_be_positive() -> None:
    with pytest.raises(UserError, match="samples is 0; it must be at least 1"):
        load_recipe("digits/fgsm", samples=0)
