"""Which of two models is more robust, judged on the same images one by one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from headstart.errors import DataError, SettingError, StorageError, extra
from headstart.evaluation.stored import Record, read_record
from headstart.fields import pixel_fraction
from headstart.runs.folder import EVALUATION, RunFolder, partial_of

with extra("evaluate"):
    from scipy import stats

logger = logging.getLogger(__name__)

LEVEL = 0.95
RESAMPLES = 9_999
Sources: TypeAlias = tuple[str | Path, str | Path]

MUST_AGREE = {
    "suite": ("suites", "give suite and n to evaluate both alike"),
    "n": ("numbers of images", "give suite and n to evaluate both alike"),
    "epsilon": ("values of epsilon", "give epsilon to evaluate both alike"),
    "norm": ("norms", "evaluate both by one norm, and compare the records"),
    "images": ("images", "give suite and n, or data, to evaluate both alike"),
}
"""What must be the same in two records, with its plural and the remedy."""


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
        DataError: a record lacks the results of each image, or the two were measured differently.
    """
    _check_alike(a, b, names)
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


def _check_complete(record: Record, name: str) -> None:
    if lacking := [key for key in (*MUST_AGREE, "broken_by") if key not in record]:
        raise DataError(f"{name} has no {lacking[0]!r}: it does not say what became of which image; evaluate again")


def _check_alike(a: Record, b: Record, names: tuple[str, str]) -> None:
    for record, name in zip((a, b), names, strict=True):
        _check_complete(record, name)
    _check_conditions(a, b, names, "were")


def _check_conditions(a: Record, b: Record, names: tuple[str, str], verb: str) -> None:
    for key, (kind, remedy) in MUST_AGREE.items():
        if a[key] != b[key]:
            values = "" if key == "images" else f" ({a[key]} and {b[key]})"
            raise DataError(f"{names[0]} and {names[1]} {verb} measured on different {kind}{values}; {remedy}")


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

    Before either is attacked, both are looked at. What is measured now is kept in a run that has no record yet; where
    it has another, or the comparison is interrupted, the same call goes on after the last finished attack.

    Args:
        a, b: an evaluation's JSON file, a run folder, or whatever else ``evaluate`` takes.
        suite, n, epsilon: how to measure; a run whose record differs is evaluated anew. Where none is given, what is
            measured now is measured as the other's record says, or else by suite "quick" on all images.
        data, device, progress: of what is measured now, as in ``evaluate``.
        seed: of the attacks and of the bootstrap.

    Raises:
        UserError: see ``compare_records`` and ``evaluate``; a JSON file that is no evaluation, or not as asked.
    """
    asked: Record = {"suite": suite, "n": n, "epsilon": None if epsilon is None else pixel_fraction(epsilon)}
    stored = [_stored(source) for source in (a, b)]
    if not any(asked.values()) and None in stored:
        asked |= {key: record.get(key) for record in stored if record is not None for key in (*asked, "norm")}
    stored = [_as_asked(source, record, asked) for source, record in zip((a, b), stored, strict=True)]
    how = {"data": data, "device": device, "seed": seed, "progress": progress}
    first, second = _completed((a, b), stored, how | asked | {"suite": asked["suite"] or "quick"})
    return compare_records(first, second, (str(a), str(b)), seed)


def _completed(sources: Sources, stored: Sequence[Record | None], how: Record) -> list[Record]:
    """The records, those that are not stored measured now, once nothing stands against it."""
    if None in stored:
        _look_ahead(sources, stored, how)
    records = [
        record if record is not None else _evaluated(source, how)
        for source, record in zip(sources, stored, strict=True)
    ]
    for source in filter(os.path.isdir, sources):
        partial_of(_unkept(source)).unlink(missing_ok=True)
    return records


def _as_asked(source: str | Path, record: Record | None, asked: Record) -> Record | None:
    """The record of a source where it was measured as asked; None where it is to be evaluated now."""
    differing = [key for key, value in asked.items() if record is not None and value not in (None, record.get(key))]
    if record is not None and not differing:
        return record
    if record is not None and Path(source).suffix == ".json":
        key = differing[0]
        raise SettingError(
            f"{source} is of {key} {record.get(key)}, not {asked[key]}; name the run to evaluate it anew"
        )
    return None


def _look_ahead(sources: Sources, stored: Sequence[Record | None], how: Record) -> None:
    """Refuse what would be refused after hours of attacks."""
    from headstart.evaluation.evaluate import conditions  # here, since comparing records must not take loading torch

    names, facts = (str(sources[0]), str(sources[1])), []
    for source, record, name in zip(sources, stored, names, strict=True):
        if record is not None:
            _check_complete(record, name)
        facts.append(record if record is not None else conditions(source, **how))
    _check_conditions(facts[0], facts[1], names, "would be")


def _evaluated(source: str | Path, how: Record) -> Record:
    """The record of an evaluation made now; kept in a run as its record where it has none."""
    from headstart.evaluation.evaluate import evaluate, evaluate_into
    from headstart.runs.files import check_writable

    if not Path(source).is_dir():
        return evaluate(source, **how).to_json()
    record = RunFolder(Path(source)).evaluation
    try:
        check_writable(record)
    except StorageError as error:
        logger.warning(f"{error}; what is measured now is lost where it is interrupted")
        return evaluate(source, **how).to_json()
    if record.exists():
        return evaluate(source, partial=partial_of(_unkept(source)), **how).to_json()
    return evaluate_into(record, source, **how).to_json()


def _unkept(source: str | Path) -> Path:
    """A record beside the one that a run has already; only its partial file is ever written."""
    return Path(source) / "compare.json"


def _stored(source: str | Path) -> Record | None:
    """The record of an evaluation in a JSON file or a run folder; None where the source is neither."""
    path = Path(source)
    path = RunFolder(path).evaluation if path.is_dir() else path
    if path.suffix != ".json" or (path.name == EVALUATION and not path.exists()):
        return None
    return read_record(path)
