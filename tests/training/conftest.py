"""A training run small enough to be repeated many times, and what its folder holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from headstart.data import ImageSet, load


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads, and networks this small run faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """300 digits: with 64 held out and batches of 64, an epoch has four updates, the last of 44 images."""
    return load("digits", "train").take(slice(0, 300), "some digits")
