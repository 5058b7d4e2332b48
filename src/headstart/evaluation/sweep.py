"""Robust accuracy over a growing epsilon, which has to reach zero somewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core.threat import NORMS, ThreatModel
from headstart.errors import UserError
from headstart.evaluation.evaluate import find_subject, pick_device
from headstart.evaluation.measure import evaluate_model
from headstart.evaluation.warnings import caution
from headstart.runs.environment import environment

MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 1, 3 / 2, 2, 3, 4)
"""Of the model's own epsilon; 1, 2, 4, 8, 12, 16, 24 and 32/255 where that is 8/255."""
STANDING = 0.05
"""Accuracy at the largest epsilon above which something is wrong: no image is told apart through so much noise."""


@dataclass(frozen=True)
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

    def to_json(self) -> dict[str, Any]:
        """All fields, of types that JSON knows."""
        return asdict(self)


def sweep_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    suite: str = "pgd",
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = True,
    total: int | None = None,
) -> Sweep:
    """Attack at an eighth of the threat model's epsilon and so on up to four times as much.

    An image that falls is not attacked again: what fools a model within a ball does so within every larger one.

    Args and errors are those of ``evaluate_model``; besides, an epsilon of 0 is refused.
    """
    if threat.epsilon == 0:
        raise UserError("epsilon is 0; a sweep needs one above 0, such as 8/255, to scale its sizes to")
    started = time.perf_counter()
    sizes = sorted({min(m * threat.epsilon, NORMS[threat.norm].largest) for m in MULTIPLES})
    broken_at: list[float | None] = [None] * len(x)
    warnings: list[str] = []
    left = torch.arange(len(x))
    for size in sizes:
        if len(left) == 0:
            break
        at_size = ThreatModel(size, threat.norm)
        result = evaluate_model(
            model, x[left], y[left], at_size, suite, batch_size=batch_size, device=device, seed=seed, progress=False,
            total=total,
        )  # fmt: skip
        if size == sizes[0]:  # later ones see only what is left, which is no fair sample
            warnings = result.warnings
        for row, attack in zip(left.tolist(), result.broken_by, strict=True):
            if attack is not None:
                broken_at[row] = 0.0 if attack == "clean" else size
        left = left[torch.tensor([attack is None for attack in result.broken_by])]
        if progress:
            print(f"epsilon {size:.4f}  accuracy {len(left) / len(x):.2%}", file=sys.stderr)
    epsilons = [0.0, *sizes]
    accuracies = [sum(at is None or at > size for at in broken_at) / len(x) for size in epsilons]
    if accuracies[-1] > STANDING:
        warnings.append(
            caution(
                "accuracy-that-does-not-reach-zero",
                f"at epsilon {sizes[-1]:.3g}, {sizes[-1] / threat.epsilon:.3g} times the model's own, "
                f"{accuracies[-1]:.1%} of the images withstand suite {suite!r}: its attacks fail for another reason "
                "than robustness",
            )
        )
    return Sweep(
        suite=suite,
        n=len(x),
        norm=threat.norm,
        epsilon=threat.epsilon,
        epsilons=epsilons,
        accuracies=accuracies,
        broken_at=broken_at,
        warnings=warnings,
        seconds=time.perf_counter() - started,
        environment=environment(torch.device(device)),
    )


def sweep(
    source: str | Path | nn.Module,
    *,
    suite: str = "pgd",
    data: Any = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    n: int | None = None,
    epsilon: float | str | None = None,
    norm: str | None = None,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Sweep:
    """``sweep_model`` on what ``evaluate`` would evaluate; arguments and errors are those of ``evaluate``."""
    hardware = pick_device(device)
    tested = find_subject(
        source, data=data, image_size=image_size, image_column=image_column, label_column=label_column, n=n,
        epsilon=epsilon, norm=norm, model=model, model_args=model_args,
    )  # fmt: skip
    x, y = tested.test.tensors()
    return sweep_model(
        tested.network, x, y, tested.threat, suite, batch_size=batch_size, device=hardware, seed=seed,
        progress=progress, total=tested.total,
    )  # fmt: skip
