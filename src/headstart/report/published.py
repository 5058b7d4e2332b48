"""Published numbers, and which of them belong beside a run: those of its data set, method and epsilon."""

from __future__ import annotations

import csv
import functools
import math
import re
from dataclasses import dataclass
from importlib import resources

from headstart.fields import pixel_fraction
from headstart.report.reading import Json

FILES = ("fastat_benchmark.csv", "published_results.csv")

DATASETS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tinyimagenet": "tiny-imagenet",
    "tinyimagenet200": "tiny-imagenet",
    "imagenet": "imagenet",
    "imagenet1k": "imagenet",
}
"""Data sets of this library by their names in small letters and digits alone."""

METHODS = {
    # FastAT Benchmark
    "elle": "elle",
    "fgsm_at": "fgsm",
    "fgsm_cuap": "fgsm-cuap",
    "fgsm_fuap": "fgsm-fuap",
    "fgsm_mep_cs": "mep-cs",
    "fgsm_pco": "fgsm-pco",
    "fgsm_pgi": "fgsm-mep",
    "fgsm_rs": "fgsm-rs",
    "fgsm_rs_cs": "rs-cs",
    "fgsm_uap": "fgsm-uap",
    "free_at": "free",
    "gat": "gat",
    "grad_align": "fgsm-ga",
    "liet": "liet",
    "n_aaer": "n-aaer",
    "n_fgsm": "n-fgsm",
    "nu_at": "nuat",
    "pgd_at": "pgd-at",
    "pgd_at_wa": "pgd-at",
    "ssat": "ssat",
    "zero_grad": "zero-grad",
    # papers and repositories
    "Andriushchenko2020Understanding (FGSM+GradAlign)": "fgsm-ga",
    "Engstrom2019Robustness (PGD-AT)": "pgd-at",
    "FGSM": "fgsm",
    "FGSM-BP": "fgsm-bp",
    "FGSM-CKPT": "ssat",
    "FGSM-EP": "fgsm-ep",
    "FGSM-GA": "fgsm-ga",
    "FGSM-GA (GradAlign)": "fgsm-ga",
    "FGSM-LAW": "fgsm-law",
    "FGSM-MEP": "fgsm-mep",
    "FGSM-PCO": "fgsm-pco",
    "FGSM-PGI": "fgsm-mep",
    "FGSM-PGI(MEP)": "fgsm-mep",
    "FGSM-RS": "fgsm-rs",
    "FGSM-RS default script": "fgsm-rs",
    "FGSM-RS default script (15 epochs)": "fgsm-rs",
    "FGSM-SDI": "fgsm-sdi",
    "Free-8": "free",
    "Free-AT": "free",
    "Free-AT default script": "free",
    "Free-AT(m=4)": "free",
    "Free-AT(m=8)": "free",
    "GAT": "gat",
    "GradAlign": "fgsm-ga",
    "Madry 7-PGD": "pgd-at",
    "Madry 7-PGD (public model)": "pgd-at",
    "N-FGSM": "n-fgsm",
    "NuAT": "nuat",
    "PGD-AT": "pgd-at",
    "PGD-AT (10 step)": "pgd-at",
    "PGD-AT default script": "pgd-at",
    "RS-FGSM": "fgsm-rs",
    "Rice2020Overfitting": "pgd-at",
    "SORA": "sora",
    "SORA (ablation table)": "sora",
    "Salman2020Do_R18 (PGD-AT)": "pgd-at",
    "Salman2020Do_R50 (PGD-AT)": "pgd-at",
    "TDAT": "tdat",
    "TRADES": "trades",
    "TRADES (10 step)": "trades",
    "Wong2020Fast (FGSM-RS)": "fgsm-rs",
}
"""Methods of this library by their published names. A name that is not here is shown beside no run."""


@dataclass(frozen=True)
class Published:
    """One row of the files.

    Attributes:
        dataset: as this library names it, None where it has none of that name.
        method: as published.
        network: as published, empty where not stated.
        checkpoint: best, last, or empty where not stated.
        epsilon: pixel fraction of training and test, None where not stated.
        protocol: the book of recipes that follows it, bench or paper; empty where none does.
        figures: accuracies as fractions under clean, pgd-50 and autoattack, None where not published.
        deviation: of AutoAttack over seeds, as a fraction.
        restarts: of PGD-50.
        images: number of test images, None for all.
        doubt: what is known against the figures, in words.
    """

    source: str
    dataset: str | None
    method: str
    network: str
    checkpoint: str
    epsilon: float | None
    protocol: str
    figures: dict[str, float | None]
    deviation: float | None
    restarts: int
    images: int | None
    doubt: str


def published_for(dataset: str | None, method: str, epsilon: float) -> list[Published]:
    """The rows of this data set, method and epsilon, all as this library names them, in the maximum norm."""
    return [
        row
        for row in every_row()
        if (row.dataset, METHODS.get(row.method)) == (dataset, method)
        and dataset is not None
        and row.epsilon is not None
        and math.isclose(row.epsilon, epsilon)
    ]


def dataset_of(name: str) -> str | None:
    """The data set behind a name or the last part of a path: cifar10 of "CIFAR-10" and of "parquet:/data/cifar10"."""
    last = re.split(r"[:/\\]", name.rstrip("/\\"))[-1]
    letters = re.sub(r"[^a-z0-9]", "", last.lower())
    return DATASETS.get(re.sub(r"(jpe?g|png|parquet)$", "", letters))


@functools.cache
def every_row() -> tuple[Published, ...]:
    """All rows of both files."""
    folder = resources.files("headstart.report") / "published"
    texts = [(folder / name).read_text(encoding="utf-8") for name in FILES]
    return tuple(_row(row) for text in texts for row in csv.DictReader(text.splitlines()))


def _row(row: Json) -> Published:
    return Published(
        source=row["source"],
        dataset=dataset_of(row["dataset"]),
        method=row["method"],
        network=row["model"],
        checkpoint=row["checkpoint"],
        epsilon=pixel_fraction(row["epsilon"]) if row["epsilon"] else None,
        protocol=row["protocol"],
        figures={name: _share(row[name.replace("-", "")]) for name in ("clean", "pgd-50", "autoattack")},
        deviation=_share(row.get("autoattack_std", "")),
        restarts=int(row.get("pgd50_restarts") or 1),
        images=int(row["test_images"]) if row.get("test_images") else None,
        doubt=row.get("doubt", ""),
    )


def _share(percent: str) -> float | None:
    return float(percent) / 100 if percent else None
