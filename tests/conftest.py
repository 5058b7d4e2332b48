"""What every test starts with."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_messages_shown() -> Iterator[None]:
    """A command in one test shows messages for the whole process; the next test begins without."""
    yield
    logger = logging.getLogger("headstart")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
