"""Which of two models is more robust, judged on the same images one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from headstart.errors import UserError
from headstart.fields import pixel_fraction

Record = dict[str, Any]

LEVEL = 0.95
RESAMPLES = 9_999
MUST_AGREE = {
    "suite": "suites", "n": "numbers of images", "epsilon": "values of epsilon", "norm": "norms", "images": "images",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Robust accuracies of two models on the same images, and what their difference is worth.

    Attributes:
        a, b: what the models are called.
        suite, n, epsilon, norm: how both were measured; epsilon in pixel fractions.
        robust_a, robust_b: robust accuracies, fractions of the ``n`` images.
        both, only_a, only_b, neither: images by who withstands the suite.
        difference: robust_a - robust_b.
        interval: the 95 % bootstrap interval of the difference, over images drawn anew.
        p_value: of McNemar's exact test that images on which the two differ favour either equally.
        better: "a", "b", or None where interval or test leave it open.
    """

    a: str
    b: str
    suite: str
    n: int
    epsilon: float
    norm: str
    robust_a: float
    robust_b: float
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    better: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields, of types that JSON knows."""
        return asdict(self)

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.better is None:
            return f"{self.n} images do not show which of the two is more robust"
        better, worse = (self.a, self.b) if self.better == "a" else (self.b, self.a)
        return f"{better} is more robust than {worse}"


def compare_records(a: Record, b: Record, names: tuple[str, str] = ("A", "B"), seed: int = 0) -> Comparison:
    """Compare two evaluations of the same images by the same suite.

    "Better" asks for both: a bootstrap interval without zero, and a p-value below 5 %. Where few images tell the two
    apart, the interval alone is too narrow.

    Args:
        a, b: records as ``headstart evaluate`` writes them, with the result of each image.
        names: what to call them.
        seed: of the bootstrap.

    Raises:
        UserError: a record lacks the results of each image, or the two were measured differently.
    """
    for record, name in zip((a, b), names, strict=True):
        if lacking := [key for key in (*MUST_AGREE, "broken_by") if key not in record]:
            raise UserError(f"{name} has no {lacking[0]!r}: it does not say what became of which image; evaluate again")
    for key, kind in MUST_AGREE.items():
        if a[key] != b[key]:
            values = "" if key == "images" else f" ({a[key]} and {b[key]})"
            raise UserError(
                f"{names[0]} and {names[1]} were measured on different {kind}{values}; give --suite and --n to "
                "evaluate both alike"
            )
    robust_a, robust_b = (np.array([attack is None for attack in record["broken_by"]]) for record in (a, b))
    only_a, only_b = int((robust_a & ~robust_b).sum()), int((robust_b & ~robust_a).sum())
    differences = robust_a.astype(float) - robust_b
    interval = _bootstrap(differences, seed)
    p_value = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    shown = p_value < 1 - LEVEL and not interval[0] <= 0 <= interval[1]
    return Comparison(
        a=names[0],
        b=names[1],
        suite=a["suite"],
        n=a["n"],
        epsilon=a["epsilon"],
        norm=a["norm"],
        robust_a=float(robust_a.mean()),
        robust_b=float(robust_b.mean()),
        both=int((robust_a & robust_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~robust_a & ~robust_b).sum()),
        difference=float(differences.mean()),
        interval=interval,
        p_value=p_value,
        better=("a" if only_a > only_b else "b") if shown else None,
    )


def alike(records: Sequence[Record]) -> bool:
    """Whether evaluations were made so that ``compare_records`` takes any two of them."""
    keys = (*MUST_AGREE, "broken_by")
    return all(key in r for r in records for key in keys) and all(
        r[key] == records[0][key] for r in records for key in MUST_AGREE
    )


def _bootstrap(differences: np.ndarray[Any, Any], seed: int) -> tuple[float, float]:
    if len(differences) < 2:
        return -1.0, 1.0  # one image shows nothing
    result = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", batch=100,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare(
    a: str | Path,
    b: str | Path,
    *,
    suite: str | None = None,
    n: int | None = None,
    epsilon: str | float | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare two models, each by the record of its evaluation where there is one, else evaluated now.

    Args:
        a, b: an evaluation's JSON file, a run folder, or whatever else ``evaluate`` takes.
        suite, n, epsilon: how to measure; a run whose record differs is evaluated anew. Where none is given, what is
            measured now is measured as the other's record says, or else by suite "quick" on all images.
        data: for what is measured now; default what the model was trained on.
        device, seed, progress: as in ``evaluate``.

    Raises:
        UserError: see ``compare_records`` and ``evaluate``; a JSON file that is no evaluation, or not as asked.
    """
    asked: dict[str, Any] = {"suite": suite, "n": n, "epsilon": None if epsilon is None else pixel_fraction(epsilon)}
    stored = [_stored(source) for source in (a, b)]
    if not any(asked.values()) and None in stored:
        asked |= {key: record.get(key) for record in stored if record is not None for key in (*asked, "norm")}

    def record_of(source: str | Path, record: Record | None) -> Record:
        differing = [key for key, value in asked.items() if record is not None and value not in (None, record.get(key))]
        if record is not None and not differing:
            return record
        if record is not None and Path(source).suffix == ".json":
            key = differing[0]
            raise UserError(
                f"{source} is of {key} {record.get(key)}, not {asked[key]}; name the run to evaluate it anew"
            )
        from headstart.evaluation.evaluate import evaluate

        return evaluate(
            source,
            data=data,
            device=device,
            seed=seed,
            progress=progress,
            **asked | {"suite": asked["suite"] or "quick"},
        ).to_json()

    records = [record_of(source, record) for source, record in zip((a, b), stored, strict=True)]
    return compare_records(records[0], records[1], (str(a), str(b)))


def _stored(source: str | Path) -> Record | None:
    """The record of an evaluation in a JSON file or a run folder; None where the source is neither."""
    path = Path(source)
    path = path / "evaluation.json" if path.is_dir() else path
    if path.suffix != ".json" or (path.name == "evaluation.json" and not path.exists()):
        return None
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the JSON of an evaluation: {error}") from error
    if not isinstance(record, dict) or "robust" not in record:
        raise UserError(f"{path} is no evaluation; make one with headstart evaluate ... --out {path.name}")
    return record
