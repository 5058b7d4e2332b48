"""Robust accuracy over a growing epsilon, which has to reach zero somewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core.threat import NORMS, ThreatModel
from headstart.errors import SettingError
from headstart.evaluation.devices import pick_device
from headstart.evaluation.evaluate import device_of, evaluate_model
from headstart.evaluation.settings import NOT_SWEPT, EvaluationSettings, settings_from
from headstart.evaluation.subject import Source, find_subject
from headstart.evaluation.warnings import caution
from headstart.fields import fraction_of_pixels
from headstart.runs.environment import environment

logger = logging.getLogger(__name__)

SUITE = "pgd"
"""That sweeps measure with where none is named."""
MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 1, 3 / 2, 2, 3, 4)
"""Of the model's own epsilon; 1, 2, 4, 8, 12, 16, 24 and 32/255 where that is 8/255."""
STANDING = 0.05
"""Accuracy at the largest epsilon above which something is wrong: no image is told apart through so much noise."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """Accuracy at each epsilon; fractions of all ``n`` images.

    Attributes:
        suite: the attacks of which an image must withstand all, at this epsilon and at every smaller one.
        n: number of images.
        norm, epsilon: the threat model from which the sizes follow; epsilon in pixel fractions.
        epsilons: from 0, ascending.
        accuracies: at each of them.
        broken_at: for each image the smallest epsilon at which it fell; 0 where the model was wrong without attack,
            None where it stood to the end.
        warnings: reasons not to trust the numbers, one sentence each.
        seconds: wall time.
        environment: device and versions.
    """

    suite: str
    n: int
    norm: str
    epsilon: float
    epsilons: list[float]
    accuracies: list[float]
    broken_at: list[float | None]
    warnings: list[str]
    seconds: float
    environment: dict[str, str]

    def __repr__(self) -> str:
        """The figures alone; ``to_json`` has everything."""
        ends = f"{self.accuracies[0]:.1%} to {self.accuracies[-1]:.1%}"
        return f"<Sweep by {self.suite}, {self.norm}, {self.n} images: {ends} at {len(self.epsilons)} epsilons>"

    def to_json(self) -> dict[str, Any]:
        """All fields, of types that JSON knows."""
        return asdict(self)


def sweep(source: Source, *, data: Any = None, progress: bool = True, **fields: Any) -> Sweep:
    """``sweep_model`` on what ``evaluate`` would evaluate.

    Args:
        fields: settings as ``evaluate`` takes them, less ``NOT_SWEPT``; suite is pgd by default.

    Raises:
        UserError: see ``evaluate`` and ``sweep_model``.
    """
    for name in NOT_SWEPT:
        if name in fields:
            raise SettingError(f"{name} is a setting of an evaluation, not of a sweep; leave it out")
    settings = settings_from({"suite": SUITE, **fields}, data=data)
    hardware = pick_device(settings.device)
    subject = find_subject(source, settings, None if isinstance(data, str) else data)
    return sweep_model(
        subject.network, *subject.test.tensors(), subject.threat, settings, device=hardware, total=subject.total,
        progress=progress,
    )  # fmt: skip


def sweep_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    settings: EvaluationSettings,
    *,
    device: torch.device | str | None = None,
    total: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Attack at an eighth of the threat model's epsilon and so on up to four times as much.

    An image that falls is not attacked again: what fools a model within a ball does so within every larger one.

    Args and errors are those of ``evaluate_model``; besides, an epsilon of 0 is refused.
    """
    if threat.epsilon == 0:
        raise SettingError("epsilon is 0; a sweep needs one above 0, such as 8/255, to scale its sizes to")
    started = time.perf_counter()
    device = torch.device(device) if device is not None else device_of(model)
    sizes = _sizes(threat)
    broken_at: list[float | None] = [None] * len(x)
    warnings: list[str] = []
    left = torch.arange(len(x))
    for size in sizes:
        if len(left) == 0:
            break
        at_size = ThreatModel(size, threat.norm)
        result = evaluate_model(model, x[left], y[left], at_size, settings, device=device, total=total, progress=False)
        if size == sizes[0]:  # later ones see only what is left, which is no fair sample
            warnings = result.warnings
        for row, attack in zip(left.tolist(), result.broken_by, strict=True):
            if attack is not None:
                broken_at[row] = 0.0 if attack == "clean" else size
        left = left[torch.tensor([attack is None for attack in result.broken_by])]
        if progress:
            logger.info(f"epsilon {fraction_of_pixels(size):>8}  accuracy {len(left) / len(x):.2%}")
    return _sweep_of(settings.suite, threat, broken_at, warnings, time.perf_counter() - started, device)


def _sizes(threat: ThreatModel) -> list[float]:
    """Ascending; the whole range of pixels at most."""
    return sorted({min(multiple * threat.epsilon, NORMS[threat.norm].largest) for multiple in MULTIPLES})


def _sweep_of(
    suite: str,
    threat: ThreatModel,
    broken_at: list[float | None],
    warnings: list[str],
    seconds: float,
    device: torch.device,
) -> Sweep:
    """The record, with the warning that the whole curve may deserve."""
    epsilons = [0.0, *_sizes(threat)]
    accuracies = [sum(at is None or at > size for at in broken_at) / len(broken_at) for size in epsilons]
    if accuracies[-1] > STANDING:
        last, times = epsilons[-1], epsilons[-1] / threat.epsilon
        standing = caution(
            "accuracy-that-does-not-reach-zero",
            f"at epsilon {fraction_of_pixels(last)}, {times:.3g} times the model's own, {accuracies[-1]:.1%} of the "
            f"images withstand suite {suite!r}: its attacks fail for another reason than robustness",
        )
        warnings = [*warnings, standing]
    return Sweep(
        suite=suite,
        n=len(broken_at),
        norm=threat.norm,
        epsilon=threat.epsilon,
        epsilons=epsilons,
        accuracies=accuracies,
        broken_at=broken_at,
        warnings=warnings,
        seconds=seconds,
        environment=environment(device),
    )
