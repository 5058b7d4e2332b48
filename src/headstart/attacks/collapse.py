"""What catastrophic overfitting looks like in numbers."""

from __future__ import annotations

COLLAPSE_RATIO, COLLAPSE_GAP = 1 / 3, 0.15
"""Catastrophic overfitting is the gap itself: PGD keeps less than this share of the FGSM accuracy, and the two are so
many points apart. A fall from the best so far would miss runs that never were robust, and mistake divergence."""


def collapsed(measured: dict[str, float]) -> bool:
    """Whether a validation result shows catastrophic overfitting."""
    single, multi = measured["fgsm"], measured["pgd"]
    return multi < COLLAPSE_RATIO * single and single - multi > COLLAPSE_GAP
