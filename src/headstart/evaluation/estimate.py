"""How long attacks will take: the passes that each makes, times what a pass of this network costs here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.attacks.autoattack import targets
from headstart.attacks.scores import input_gradient, margin
from headstart.evaluation.suites import ATTACKS

Clock = Callable[[], float]
"""Seconds from some moment on, as ``time.perf_counter`` gives them."""

STANDING = 0.6
"""Share of the correctly classified images that the first attack of a chain leaves, as of a robust network."""
TIMED = {"cpu": 32, "cuda": 250}
"""Images in the batch that is timed; a larger one would cost more than the estimate is worth."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a computation on a batch: some for any, and some for each of its images."""

    fixed: float
    each: float

    def __call__(self, images: int, batch_size: int | None = None) -> float:
        """The seconds for so many images, in batches of this size, or all at once."""
        batches = math.ceil(images / batch_size) if batch_size else 1
        return batches * self.fixed + images * self.each


@dataclass(frozen=True)
class Pace:
    """What a forward pass costs, and one with its backward pass."""

    forward: Cost
    both: Cost


@dataclass(frozen=True)
class Duration:
    """Seconds that attacks are expected to take, and what they take where no image falls."""

    expected: float
    most: float

    def __str__(self) -> str:
        return f"about {in_words(self.expected)}, at most {in_words(self.most)}"


def passes_of(name: str, classes: int) -> tuple[int, int]:
    """Forward passes, and those of them with a backward pass, for an image that the attack does not break."""
    t = targets(classes)
    return {
        "fgsm": (1, 1),
        "pgd-10": (10, 10),
        "pgd-20": (20, 20),
        "pgd-50": (50, 50),
        "pgd-50-10": (518, 500),
        "cw-20": (20, 20),
        "apgd-ce": (102, 101),
        "apgd-t": (102 * t + 1, 101 * t),
        "fab-t": (203 * t + 1, 100 * t),
        "square": (5003, 0),
        "cr": (176 + 10 * t, 127 + 7 * t),
        "transfer": (102, 101),
        "apgd-ce-rand": (2041, 2020),
        "apgd-dlr-rand": (2041, 2020),
    }[name]


def pace_of(model: nn.Module, x: Tensor, y: Tensor, clock: Clock = time.perf_counter) -> Pace:
    """The pace on the first of some images (B, C, H, W) with labels (B,): on one, and on as many as it is worth."""
    few = min(len(x), TIMED.get(x.device.type, TIMED["cpu"]))

    def seconds(run: Callable[[Tensor, Tensor], object], n: int) -> float:
        for _ in range(2):  # the first time warms up
            began = clock()
            run(x[:n], y[:n])
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
        return clock() - began

    def cost(run: Callable[[Tensor, Tensor], object]) -> Cost:
        one, many = seconds(run, 1), seconds(run, few)
        each = max(0.0, many - one) / max(1, few - 1)
        return Cost(max(0.0, many - few * each), each)

    with torch.no_grad():
        forward = cost(lambda images, labels: model(images))
    return Pace(forward, cost(lambda images, labels: input_gradient(model, images, labels, margin)))


def cost_of(name: str, classes: int, pace: Pace) -> Cost:
    """What an attack costs on images that it does not break."""
    forwards, backwards = passes_of(name, classes)
    forwards -= backwards
    return Cost(
        forwards * pace.forward.fixed + backwards * pace.both.fixed,
        forwards * pace.forward.each + backwards * pace.both.each,
    )


def duration_of(
    names: Sequence[str], images: int, pace: Pace, classes: int, batch_size: int, processes: int = 1
) -> Duration:
    """Of attacks that are all to be run, on so many correctly classified images, by processes that share them."""
    expected = most = 0.0
    begun: set[str] = set()
    for name in names:
        chain, cost = ATTACKS[name].chain, cost_of(name, classes, pace)
        most += cost(images, batch_size) / processes
        expected += cost(math.ceil(STANDING * images) if chain in begun else images, batch_size) / processes
        begun |= {chain} if chain is not None else set()
    return Duration(expected, most)


def in_words(seconds: float) -> str:
    """A length of time in the unit that fits it."""
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 90 * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
