"""Numbers as text, and their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy import stats

from headstart.fields import fraction_of_pixels

MISSING = "—"


@dataclass(frozen=True)
class Spread:
    """Mean of some runs, their sample standard deviation (None for a single one), the 95 % interval of an accuracy."""

    mean: float
    std: float | None
    interval: tuple[float, float] | None = None


def spread(values: Iterable[float | None], n: int | None = None) -> Spread | None:
    """Mean and sample standard deviation of the values that are there; None when none is.

    Args:
        n: number of test images, where the values are accuracies; they get an interval, for other test images
            (Wilson's) and, where there are several values, for other seeds too (Student's t).
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, std = statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None
    return Spread(mean, std, _interval(mean, std, len(known), n) if n else None)


def level(best: Spread, other: Spread) -> bool:
    """Whether the 95 % interval of the difference of two accuracies reaches zero.

    Of the intervals of both it is made as by Newcombe (1998, Statistics in Medicine 17, method 10), which takes the two
    for independent. On the same images they seldom are, so it is rather too wide. Without intervals, only equals are
    level.
    """
    if best.interval is None or other.interval is None:
        return best.mean == other.mean
    return best.mean - other.mean <= math.hypot(best.mean - best.interval[0], other.interval[1] - other.mean)


def _interval(mean: float, std: float | None, seeds: int, n: int) -> tuple[float, float]:
    low, high = sampling_interval(mean, n)
    if std is None:
        return low, high
    other_seeds = float(stats.t.ppf(0.975, seeds - 1)) * std / math.sqrt(seeds)
    return max(0.0, mean - math.hypot(mean - low, other_seeds)), min(1.0, mean + math.hypot(high - mean, other_seeds))


def sampling_interval(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy measured on ``n`` images (Wilson's, which is honest near 0 and 1 too)."""
    interval = stats.binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def percent(fraction: float | None, unit: str = "") -> str:
    """A fraction in per cent with one decimal: 0.969 as "96.9"."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{unit}"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign: -0.012 as "-1.2"."""
    return f"{100 * difference:+.1f}"


def number(value: float | None) -> str:
    """A number at a precision worth reading: one decimal below a hundred, none above."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def passes(value: float | None) -> str:
    """A number of passes: "2", or "3.4" where some updates make more than others."""
    return MISSING if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def budget(epsilon: float | None) -> str:
    """Epsilon as people write it, or the sign for none."""
    return MISSING if epsilon is None else fraction_of_pixels(epsilon)


def setting(value: Any) -> str:
    """A value of any type, or the sign for none."""
    return MISSING if value is None else str(value)
