"""What a piece is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Workload


@dataclass(frozen=True)
class Context:
    """Where the battery runs, on what, and how large. ``data`` gives the sets by the name of their recipes."""

    data: dict[str, str]
    out: Path
    tiny: bool = False
    minutes: float = 8.0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def workload(self, batch_size: int, model: str = "resnet18", **settings: Any) -> Workload:
        if self.tiny:
            return Workload(self.device, model="small", batch_size=8, **settings)
        return Workload(self.device, model=model, batch_size=batch_size, **settings)


Piece = Callable[[Context], dict[str, Any]]
