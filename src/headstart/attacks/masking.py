"""Signs that a robust accuracy cannot be trusted, each a sentence with its reason.

The signs of gradient masking follow Athalye, Carlini & Wagner (2018, arXiv:1802.00420), section 3.1, the checks
of AutoAttack (Croce & Hein, 2020) and Carlini et al. (2019, arXiv:1902.06705).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headstart.attacks.scores import cross_entropy, input_gradient

STRONGEST_FIRST = ("apgd-t", "apgd-ce", "pgd-50", "pgd-20", "pgd-10")
FEW = 0.002
"""Share of the images that AutoAttack's own check lets Square break before it warns."""


@dataclass
class Evidence:
    """What an evaluation saw.

    Attributes:
        classes: number of classes.
        clean: bool (N,), classified correctly.
        saturated: bool (N,), the cross-entropy of the clean image is exactly zero in float32.
        robust: bool (N,), withstood every attack of the suite.
        broken: for each attack, bool (N,), broken by it; False for samples it was not run on.
        left: for each attack, bool (N,), correct under it; under it and those before it for AutoAttack's.
    """

    classes: int
    clean: Tensor
    saturated: Tensor
    robust: Tensor
    broken: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)


def warnings_of_subset(n: int, total: int | None) -> list[str]:
    """Fewer images than the test set has."""
    if total is None or n >= total:
        return []
    return [
        f"evaluated on {n} of {total} test images: the accuracies of the full set may differ by up to "
        f"{_points(1.96 * math.sqrt(0.25 / n))} points (95 % interval)"
    ]


def warnings_of_forward(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """What one batch (B, C, H, W) shows of the model before any attack; B of 1 shows less."""
    found = []
    still_training = sorted({type(m).__name__ for m in model.modules() if m.training})
    if still_training:
        found.append(f"parts of the model stay in training mode after eval(): {', '.join(still_training)}")
    with torch.no_grad():
        logits, again = model(x).float(), model(x).float()
        scale = logits.abs().max()
        if _differ(logits, again, scale):
            found.append(
                "two forward passes of the same images differ: against a randomised model these attacks fail for "
                "want of a steady gradient, and the robust accuracy is an overestimate"
            )
        elif len(x) > 1 and _differ(logits[: len(x) // 2], model(x[: len(x) // 2]).float(), scale):
            found.append(
                "the prediction for an image depends on the other images of its batch (batch statistics at test "
                "time?): accuracies change with the batch size"
            )
        if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-5):
            found.append(
                "the model returns probabilities instead of logits: their gradients vanish where it is confident, "
                "and attacks fail for that reason alone"
            )
    grad, _ = input_gradient(model, x, y, cross_entropy)
    zero = (grad.flatten(1) == 0).all(1).float().mean().item()
    if zero > 0.01:
        found.append(
            f"the gradient is zero in every pixel of {_percent(zero)} of the images: white-box attacks see nothing "
            "there, and only a black-box attack (Square, in suite 'standard') tests them"
        )
    return found


def warnings_of_attacks(evidence: Evidence) -> list[str]:
    """What the attacks' successes show when compared with each other."""
    n = len(evidence.clean)
    broken, left = evidence.broken, evidence.left
    found = []
    clean = evidence.clean.float().mean().item()
    chance = 1 / evidence.classes
    if clean <= chance + 2 * math.sqrt(chance * (1 - chance) / n):
        found.append(
            f"clean accuracy {_percent(clean)} is that of guessing among {evidence.classes} classes: do labels, "
            "pixel range and normalisation match the model's training?"
        )
    multi_step = next((name for name in STRONGEST_FIRST if name in left), None)
    if multi_step is not None:
        fgsm_only = int((broken["fgsm"] & left[multi_step]).sum())
        other_only = int((left["fgsm"] & ~left[multi_step]).sum())
        missed = int((broken["fgsm"] & evidence.robust).sum())
        # Of the samples on which two equally strong attacks disagree either wins half; twice the standard deviation.
        if fgsm_only - other_only > 2 * math.sqrt(fgsm_only + other_only):
            found.append(
                f"FGSM beats {multi_step} ({fgsm_only} images broken by FGSM alone against {other_only}): the loss "
                "surface misleads attacks of many steps, a sign of gradient masking"
            )
        elif missed > max(1, FEW * n):
            found.append(f"FGSM breaks {missed} images that the whole suite leaves standing: its attacks are misled")
        fgsm, other = (left[name].float().mean().item() for name in ("fgsm", multi_step))
        if fgsm - other > 0.2 and other < fgsm / 2:
            found.append(
                f"FGSM accuracy {_percent(fgsm)} is far above {multi_step} accuracy {_percent(other)}: the "
                "signature of catastrophic overfitting, where training used single-step attacks"
            )
    if "square" in broken:
        beaten = int(broken["square"].sum())
        if beaten > max(1, FEW * n):
            found.append(
                f"Square, which uses no gradient, breaks {beaten} images that the white-box attacks did not: a sign of "
                "gradient masking, the true robust accuracy may be lower still"
            )
    elif "apgd-t" not in broken:
        blind = int((evidence.saturated & evidence.robust).sum())
        if blind > max(1, FEW * n):
            found.append(
                f"the cross-entropy of {blind} images counted robust is zero in float32: its gradient there is "
                "rounding error, and attacks on it miss what suite 'standard' would find"
            )
    return found


def _differ(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    # Rounding alone differs by about 1e-6 of the largest logit between batch sizes.
    return bool((a - b).abs().max() > 1e-4 * scale)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
