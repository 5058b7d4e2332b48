"""How far apart two recipes are, judged on the same images, each trained with some seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Verdicts = np.ndarray[Any, np.dtype[np.bool_]]
RESAMPLES = 2_000


class Paired(NamedTuple):
    """A difference of robust accuracies and its 95 % bootstrap interval, fractions."""

    difference: float
    low: float
    high: float


def paired(a: Verdicts, b: Verdicts, seed: int = 0) -> Paired:
    """Mean robust accuracy of ``a`` less that of ``b``.

    The bootstrap draws the images anew, the same for both, and the seeds of each: what another test set and other
    trainings might have shown. Of one seed alone, the trainings' part is missing.

    Args:
        a, b: which images withstand the attacks, (S, N), a row per training; N is the same, S may differ.
        seed: of the bootstrap.
    """
    draw = np.random.default_rng(seed)
    images = a.shape[1]
    resampled = np.empty(RESAMPLES)
    for k in range(RESAMPLES):
        times = draw.multinomial(images, np.full(images, 1 / images))
        rows = [v[draw.integers(len(v), size=len(v))].mean(0) for v in (a, b)]
        resampled[k] = (rows[0] - rows[1]) @ times / images
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Paired(float(a.mean() - b.mean()), float(low), float(high))
