"""What a piece is, and what it is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Workload


class Unfinished(Exception):
    """Time is up in the middle of a piece; ``record`` is what it found so far, None for nothing yet."""

    def __init__(self, record: dict[str, Any] | None = None) -> None:
        super().__init__("time is up")
        self.record = record


@dataclass(frozen=True)
class Context:
    """Where the battery runs, on what, how large, and until when.

    Attributes:
        data: the sets by name.
        out: folder for the records.
        tiny: everything shrunk to a few steps.
        until: when the call ends, in seconds of ``time.monotonic``.
    """

    data: dict[str, str]
    out: Path
    tiny: bool = False
    until: float = math.inf

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds_left(self) -> float:
        return self.until - time.monotonic()

    def workload(self, batch_size: int, model: str = "resnet18", **settings: Any) -> Workload:
        if self.tiny:
            return Workload(self.device, model="small", batch_size=8, **settings)
        return Workload(self.device, model=model, batch_size=batch_size, **settings)


Piece = Callable[[Context], dict[str, Any]]
