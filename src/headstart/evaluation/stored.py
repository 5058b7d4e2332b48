"""Evaluations on disk, as the JSON that ``headstart evaluate`` writes. Reading them loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.errors import DataError

Record = dict[str, Any]
"""The fields of an ``Evaluation``; those of records from before a field existed lack it."""


def read_record(path: Path) -> Record:
    """The record in a JSON file.

    Raises:
        DataError: it cannot be read, or is no evaluation.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as the JSON of an evaluation: {error}") from error
    if isinstance(record, dict) and "bound" in record:
        raise DataError(
            f"{path} is an upper bound found within a budget, no evaluation by a suite; evaluate without one"
        )
    if not isinstance(record, dict) or "robust" not in record:
        raise DataError(f"{path} is no evaluation; make one with headstart evaluate ... --out {path.name}")
    return record
