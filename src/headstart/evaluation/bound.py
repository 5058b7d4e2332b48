"""From a source and a budget of time to an upper bound on its robust accuracy, and the record of it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError, extra
from headstart.evaluation.budget import AT_ONCE, Hunt, cards
from headstart.evaluation.devices import pick_device
from headstart.evaluation.estimate import Clock, pace_of
from headstart.evaluation.evaluate import device_of, enough_memory, plan_of
from headstart.evaluation.masking import guessing, no_answer
from headstart.evaluation.measurement import Measurement, classify_clean, ready
from headstart.evaluation.plan import Images
from headstart.evaluation.resume import checksum
from headstart.evaluation.settings import EvaluationSettings, named, settings_from
from headstart.evaluation.subject import Source, find_subject
from headstart.evaluation.warnings import warnings_of_subset
from headstart.fields import duration, fraction_of_pixels
from headstart.runs.environment import environment
from headstart.runs.files import check_writable, write_text
from headstart.runs.folder import EVALUATION

KIND = "upper bound on robust accuracy"
LEVEL = 0.95
NOT_BUDGETED = ("suite", "devices", "transfer_from", "save_examples", "partial")
"""Arguments of ``evaluate`` that a budget does without."""


@dataclass(frozen=True, repr=False)
class Bound:
    """An upper bound on robust accuracy. Shares are of the ``n`` images dealt.

    Attributes:
        kind: what this record is; it is no evaluation by a suite, and none by AutoAttack.
        budget: seconds that were given.
        n: number of images dealt, drawn at random from ``total`` without replacement.
        rows: which.
        images: checksum of their pixels and labels.
        epsilon, norm: the threat model; epsilon in pixel fractions.
        clean: accuracy without attack.
        bound: share of images that nothing broke.
        interval: 95 % interval of Clopper and Pearson around it.
        finished: every attack was run on every image that stands.
        attacks: by name, on how many images it was run, how many of them it broke, and its seconds.
        broken_by: for each image dealt the attack that broke it, "clean" where none was needed, None where it stands.
        warnings: reasons not to trust ``bound``, one sentence each.
        precision, batch_size, seed, seconds, environment, request: as in ``Evaluation``.
    """

    kind: str
    budget: float
    n: int
    total: int
    rows: list[int]
    images: str
    epsilon: float
    norm: str
    clean: float
    bound: float
    interval: tuple[float, float]
    finished: bool
    attacks: dict[str, dict[str, float]]
    broken_by: list[str | None]
    warnings: list[str]
    precision: str
    batch_size: int
    seed: int
    seconds: float
    environment: dict[str, str]
    request: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """The figures alone; ``to_json`` has everything."""
        epsilon = fraction_of_pixels(self.epsilon)
        return f"<Bound, {self.norm} {epsilon}, {self.n} of {self.total} images: robust at most {self.bound:.1%}>"

    def to_json(self) -> dict[str, Any]:
        """All fields, of types that JSON knows."""
        return asdict(self)


def bound(source: Source, *, budget: float | str, data: Any = None, progress: bool = True, **fields: Any) -> Bound:
    """Spend a time on the tightest upper bound on robust accuracy.

    Args:
        budget: seconds, or a text such as "90s", "10m" or "1.5h".
        source, data, progress, fields: as ``evaluate`` takes them, less ``NOT_BUDGETED``.

    Raises:
        UserError: see ``evaluate``; a budget that is no time.
    """
    seconds = duration("budget", budget)
    for name in NOT_BUDGETED:
        if fields.pop(name, None) is not None:
            raise SettingError(f"{name} is a setting of a suite; an evaluation by budget does without, leave it out")
    settings = settings_from(fields, data=data)
    device = pick_device(settings.device)
    subject = find_subject(source, settings, None if isinstance(data, str) else data)
    found = bound_model(
        subject.network, *subject.test.tensors(), subject.threat, settings, seconds, device=device, total=subject.total
    )
    asked = {name: value for name, value in asdict(settings).items() if name not in NOT_BUDGETED}
    return replace(found, request={"source": named(source), "budget": budget, **asked})


def bound_into(record: Path, source: Source, **asked: Any) -> Bound:
    """``bound``, with the result in a JSON file.

    Raises:
        UserError: see ``bound``; a file that cannot be written, or the one that is for a suite's record.
    """
    if record.name == EVALUATION:
        raise SettingError(f"{record} is for the record of a suite; name another file for an upper bound")
    check_writable(record)
    found = bound(source, **asked)
    write_text(record, json.dumps(found.to_json(), indent=2) + "\n")
    return found


def bound_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    settings: EvaluationSettings,
    budget: float,
    *,
    device: torch.device | str | None = None,
    total: int | None = None,
    clock: Clock = time.perf_counter,
) -> Bound:
    """``bound`` in seconds, of a model on images that are at hand; arguments and errors as of ``evaluate_model``.

    Args:
        clock: by which the time passes.
    """
    if distributed.world_size() > 1:
        raise SettingError("an evaluation by budget runs in one process; use devices 1")
    began = clock()
    images = Images(x, y, torch.device(device) if device is not None else device_of(model))
    plan = replace(plan_of(settings, threat, images.device, None), suite="fgsm")
    deck = torch.randperm(len(images), generator=torch.Generator().manual_seed(plan.seed))
    forked = torch.random.fork_rng([images.device] if images.device.type == "cuda" else [])
    with ready(model, images.device), forked, enough_memory(images.device, plan.batch_size):
        torch.manual_seed(plan.seed)
        batch = images.batch(deck[: plan.batch_size])
        first = Images(x[deck[:1]], y[deck[:1]], images.device)
        classes = classify_clean(model, first, 1, keep_examples=False).evidence.classes
        pace = pace_of(model, *batch, clock)
        n = cards(pace, budget - (clock() - began), len(images), classes, plan.batch_size)
        rows = deck[:n]
        measured = Measurement(model, Images(x[rows], y[rows], images.device), plan)
        pace = pace_of(measured.task.model, *batch, clock)
        hunt = Hunt(measured, pace, clock, began + budget, AT_ONCE * budget)
        hunt.run()
    return _bound_of(hunt, rows.tolist(), len(images), total, budget, clock() - began)


def _bound_of(hunt: Hunt, rows: list[int], population: int, total: int | None, budget: float, seconds: float) -> Bound:
    done = hunt.measured
    plan, n, evidence = done.plan, len(rows), done.outcome.evidence
    standing, unanswered = int(hunt.standing.sum()), int(done.outcome.margin.isinf().sum())
    reduced = done.precision
    return Bound(
        kind=KIND,
        budget=budget,
        n=n,
        total=population,
        rows=rows,
        images=checksum([done.images.x, done.images.y]),
        epsilon=plan.threat.epsilon,
        norm=plan.threat.norm,
        clean=int(evidence.clean.sum()) / n,
        bound=standing / n,
        interval=interval(standing, n),
        finished=hunt.finished,
        attacks={w.name: {"tried": w.tried, "broken": w.broken, "seconds": w.seconds} for w in hunt.weapons if w.tried},
        broken_by=hunt.broken_by,
        warnings=[
            *warnings_of_subset(population, total), *done.warnings, *no_answer(unanswered), *guessing(evidence)
        ],
        precision="float32" if reduced == "fp32" else f"{reduced} search, float32 verdicts",
        batch_size=plan.batch_size,
        seed=plan.seed,
        seconds=seconds,
        environment=environment(done.images.device),
    )  # fmt: skip


def interval(standing: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934)."""
    with extra("evaluate"):
        from scipy import stats
    found = stats.binomtest(standing, n).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)
