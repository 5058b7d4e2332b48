"""The record of an evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from headstart.core import distributed
from headstart.evaluation.masking import warnings_of_attacks
from headstart.evaluation.measurement import Measurement
from headstart.evaluation.resume import checksum
from headstart.evaluation.suites import ATTACKS, SUITES
from headstart.evaluation.warnings import unsteady, warnings_of_subset
from headstart.fields import fraction_of_pixels
from headstart.runs.environment import environment

PER_IMAGE = ("broken_by", "margin", "predicted")
"""Fields of an ``Evaluation`` with one entry per image, which tables over many evaluations leave out."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What became of each image. Accuracies are fractions of all ``n`` images.

    Attributes:
        suite: name of the suite.
        n: number of images.
        images: checksum of their pixels and labels, by which evaluations on the same images are known.
        epsilon, norm: the threat model; epsilon in pixel fractions.
        clean: accuracy without attack.
        robust: share of images correct without attack and under every attack of the suite.
        attacks: accuracy by attack. Those of a chain, such as AutoAttack's, are each run on what the ones before left,
            and theirs is the accuracy that remains, as AutoAttack reports it. The others are each run on all images
            correct when clean, and theirs is the accuracy under that attack alone.
        settings: what each attack was run with, in words.
        not_run: attacks of the suite that do not apply, with the reason.
        warnings: reasons not to trust ``robust``, one sentence each.
        broken_by: for each image the attack that broke it first, "clean" where the model was wrong without
            attack, None where it is robust.
        margin: for each image max_{j != y} z_j - z_y in float32 of the worst example that any attack found, the image
            itself included: positive where the model is fooled; None where a logit was not finite.
        predicted: for each image the class predicted for that example.
        precision: of the attacks' search and of the verdicts.
        folded: the attacks searched on a copy of the model with batch-norm folded into its convolutions.
        batch_size, seed: which images share a batch, and all random numbers, follow from these.
        processes: number of processes that shared the work.
        attack_seconds: wall time by attack.
        seconds: wall time, that of interrupted evaluations included as far as it led to results.
        environment: device and versions.
        request: the source and the settings that were asked for, as ``evaluate`` was; None where a network and its
            images were given as they are.
    """

    suite: str
    n: int
    images: str
    epsilon: float
    norm: str
    clean: float
    robust: float
    attacks: dict[str, float]
    settings: dict[str, str]
    not_run: dict[str, str]
    warnings: list[str]
    broken_by: list[str | None]
    margin: list[float | None]
    predicted: list[int]
    precision: str
    folded: bool
    batch_size: int
    seed: int
    processes: int
    attack_seconds: dict[str, float]
    seconds: float
    environment: dict[str, str]
    request: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """The figures alone; ``to_json`` has everything."""
        told = f"; {len(self.warnings)} warnings" if self.warnings else ""
        epsilon = fraction_of_pixels(self.epsilon)
        figures = f"clean {self.clean:.1%}, robust {self.robust:.1%}"
        return f"<Evaluation by {self.suite}, {self.norm} {epsilon}, {self.n} images: {figures}{told}>"

    def to_json(self, per_image: bool = True) -> dict[str, Any]:
        """All fields, of types that JSON knows; without those that have an entry per image where not asked for."""
        return {name: value for name, value in asdict(self).items() if per_image or name not in PER_IMAGE}


def evaluation_of(done: Measurement, total: int | None) -> Evaluation:
    """The record of a finished measurement, on images out of ``total``."""
    plan, outcome, evidence = done.plan, done.outcome, done.outcome.evidence
    caveat, reduced = SUITES[plan.suite].caveat, done.precision
    images = warnings_of_subset(len(done.images), total)
    unanswered = int(outcome.margin.isinf().sum())
    attacks = warnings_of_attacks(evidence, unanswered=unanswered, unsteady=unsteady(done.gradients))
    return Evaluation(
        suite=plan.suite,
        n=len(done.images),
        images=checksum([done.images.x, done.images.y]),
        epsilon=plan.threat.epsilon,
        norm=plan.threat.norm,
        clean=_share(evidence.clean),
        robust=_share(evidence.robust),
        attacks={name: _share(evidence.left[name]) for name in done.names},
        settings={name: ATTACKS[name].settings(done.task) for name in done.names},
        not_run=done.not_run,
        warnings=[*([caveat] if caveat else []), *images, *done.warnings, *attacks],
        broken_by=outcome.broken_by(done.names),
        margin=[value if math.isfinite(value) else None for value in outcome.margin.tolist()],
        predicted=outcome.predicted.tolist(),
        precision="float32" if reduced == "fp32" else f"{reduced} search, float32 verdicts",
        folded=done.folded,
        batch_size=plan.batch_size,
        seed=plan.seed,
        processes=distributed.world_size(),
        attack_seconds={name: outcome.seconds[name] for name in done.names},
        seconds=time.perf_counter() - done.began,
        environment=environment(done.images.device),
    )


def _share(flags: Tensor) -> float:
    return flags.sum().item() / len(flags)
