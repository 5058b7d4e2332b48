"""What all tests share: one thread, some digits, silence at the start, and which tests ``make check`` leaves out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headstart.data import ImageSet, load
from tests.cuda_graphs import recorder  # noqa: F401 -- a fixture of them all

TESTS = Path(__file__).parent
SLOW = {
    "benchmarks",
    "campaigns",
    "evaluation",
    "packaging",
    "site",
    "test_bench",
    "test_compile",
    "test_cr",
    "test_cross_checks",
    "test_external",
    "test_hub",
    "test_main",
    "test_public",
    "test_runs",
    "test_train",
    "test_a_run_that_went_back_resumes_exactly",
    "test_euclidean_training_makes_digits_robust",
    "test_every_built_in_recipe_is_valid",
    "test_few_classes_are_all_targets",
    "test_readme_python",
    "test_recipe_trains_two_updates",
    "test_replayed_training_ends_in_the_same_weights",
    "test_resumes_to_the_same_end",
    "test_saved_state_continues_as_if_uninterrupted",
    "test_update_never_waits_for_the_device",
}
"""Folders, modules and tests that train, evaluate or start processes; they get the marker ``slow`` here."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(TESTS).with_suffix("")
        if not SLOW.isdisjoint({*path.parts, getattr(item, "originalname", item.name)}):
            item.add_marker(pytest.mark.slow)
    # Files with such tests first, so that no worker begins a long one when the others have finished.
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("dist")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def no_messages_shown() -> Iterator[None]:
    """A command in one test shows messages for the whole process; the next test begins without."""
    yield
    logger = logging.getLogger("headstart")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


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
