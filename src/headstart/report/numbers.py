"""Numbers as text, and their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy import stats

MISSING = "—"


@dataclass(frozen=True)
class Spread:
    """Mean of some runs, and their sample standard deviation (None for a single one)."""

    mean: float
    std: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """One deviation to either side of the mean."""
        return None if self.std is None else (self.mean - self.std, self.mean + self.std)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are there; None when none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


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
    """Epsilon as people write it: 8/255 for 0.03137..., 0.3 for 0.3."""
    if epsilon is None:
        return MISSING
    levels = round(epsilon * 255, 1)
    in_levels = math.isclose(epsilon * 255, levels, rel_tol=1e-6) and not math.isclose(epsilon, round(epsilon, 3))
    return f"{levels:g}/255" if in_levels else f"{epsilon:.4g}"


def setting(value: Any) -> str:
    """A value of any type, or the sign for none."""
    return MISSING if value is None else str(value)
