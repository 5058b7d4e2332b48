"""What an evaluation knows of each image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.evaluation.verdict import Verdict


@dataclass
class Evidence:
    """What an evaluation saw.

    Attributes:
        classes: number of classes.
        clean: bool (N,), classified correctly.
        saturated: bool (N,), the cross-entropy of the clean image is exactly zero in float32.
        robust: bool (N,), withstood every attack of the suite.
        broken: for each attack, bool (N,), broken by it; False for samples it was not run on.
        left: for each attack, bool (N,), correct under it; under it and those before it for AutoAttack's.
    """

    classes: int
    clean: Tensor
    saturated: Tensor
    robust: Tensor
    broken: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Outcome:
    """The worst case so far of each of N images, in CPU memory.

    Attributes:
        evidence: which attack broke which image.
        margin, predicted: of the worst example seen, as in ``Verdict``: fp32 (N,) and int64 (N,).
        examples: the worst examples themselves, fp32 (N, C, H, W); None where they are not kept.
        seconds: by finished attack.
    """

    evidence: Evidence
    margin: Tensor
    predicted: Tensor
    examples: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, found: Round, counts: bool, seconds: float) -> None:
        """Take in a finished attack; where it does not ``counts``, only what it broke is noted."""
        self.evidence.broken[name] = found.broken
        self.evidence.left[name] = found.pool & ~found.broken
        self.seconds[name] = seconds
        if not counts:
            return
        # A margin of exactly zero may be right or wrong; an example that fools the model replaces one that does not.
        worse = found.pool & ((found.margin > self.margin) | (found.broken & self.evidence.robust))
        self.evidence.robust &= ~found.broken
        self.margin[worse] = found.margin[worse]
        self.predicted[worse] = found.predicted[worse]
        if self.examples is not None and found.examples is not None:
            self.examples[worse] = found.examples[worse]

    def bound(self, running: Round | None = None) -> float:
        """The robust accuracy that is left, also after what an attack in progress has broken here."""
        robust = self.evidence.robust & ~running.broken if running is not None else self.evidence.robust
        return robust.sum().item() / len(robust)

    def broken_by(self, names: Iterable[str]) -> list[str | None]:
        """For each image the first of the attacks that broke it; "clean" where none was needed, None where none did."""
        first: list[str | None] = [None if right else "clean" for right in self.evidence.clean.tolist()]
        for name in names:
            for i in self.evidence.broken[name].nonzero().squeeze(1).tolist():
                first[i] = first[i] or name
        return first


class Round:
    """One attack's results on the images of its pool, as the batches come in.

    Args:
        pool: bool (N,), the images it is run on.
        shape: of the examples (N, C, H, W), where they are kept.
    """

    def __init__(self, pool: Tensor, shape: torch.Size | None) -> None:
        self.pool = pool
        self.broken = torch.zeros_like(pool)
        self.margin = torch.zeros(len(pool))
        self.predicted = torch.zeros(len(pool), dtype=torch.int64)
        self.examples = torch.zeros(shape) if shape else None

    def add(self, rows: Tensor, verdict: Verdict) -> None:
        """The verdict on some images of the pool."""
        self.broken[rows] = ~verdict.right.cpu()
        self.margin[rows] = verdict.margin.cpu()
        self.predicted[rows] = verdict.predicted.cpu()
        if self.examples is not None:
            self.examples[rows] = verdict.images.cpu()

    def gather(self, device: torch.device) -> None:
        """Exchange results between processes: each image was in the batch of one of them, and is zero in the others."""
        if distributed.world_size() == 1:
            return
        self.broken = distributed.sum_(self.broken.to(device, torch.int32)).cpu().bool()
        self.margin = distributed.sum_(self.margin.to(device)).cpu()
        self.predicted = distributed.sum_(self.predicted.to(device)).cpu()
        if self.examples is not None:
            self.examples = distributed.sum_(self.examples.to(device)).cpu()
