"""Signs that a robust accuracy cannot be trusted, each a sentence with its reason and where the remedy stands.

The signs of gradient masking follow Athalye, Carlini & Wagner (2018, arXiv:1802.00420), section 3.1, the checks
of AutoAttack (Croce & Hein, 2020) and Carlini et al. (2019, arXiv:1902.06705).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headstart.attacks.collapse import COLLAPSE_GAP, COLLAPSE_RATIO
from headstart.attacks.scores import Score, cross_entropy, input_gradient, margin

STRONGEST_FIRST = ("apgd-t", "apgd-ce", "pgd-50", "pgd-20", "pgd-10")
SAME_LOSS = dict.fromkeys(("pgd-50", "pgd-20", "pgd-10"), COLLAPSE_RATIO) | {"apgd-ce": COLLAPSE_RATIO / 2}
"""That share for attacks that differ from FGSM in nothing but their steps. APGD breaks more than PGD of any model, and
what a targeted loss finds beyond is no collapse."""
BLACK_BOX = {
    "square": "Square, which uses no gradient,",
    "transfer": "Another model's adversarial examples, made without this model's gradient,",
}
FEW = 0.002
"""Share of the images that AutoAttack's own check lets Square break before it warns."""


def caution(section: str, text: str) -> str:
    """A warning, with the section of the documentation that explains it and says what to do."""
    return f"{text} [docs/evaluation.md#{section}]"


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
        caution(
            "part-of-the-test-set",
            f"evaluated on {n} of {total} test images: the accuracies of the full set may differ by up to "
            f"{_points(1.96 * math.sqrt(0.25 / n))} points (95 % interval)",
        )
    ]


def warnings_of_overlap(test: Tensor, training: Tensor) -> list[str]:
    """Test images that are copies, pixel by pixel, of training images; both uint8, of shapes (N, ...) and (M, ...)."""
    if test.shape[1:] != training.shape[1:]:
        return []
    known = {_digest(image) for image in training}
    copies = [i for i, image in enumerate(test) if _digest(image) in known]
    if not copies:
        return []
    first = ", ".join(map(str, copies[:3])) + (", ..." if len(copies) > 3 else "")
    return [
        caution(
            "test-images-seen-in-training",
            f"{len(copies)} of {len(test)} test images are exact copies of training images (rows {first}): on them "
            "the accuracies measure memory",
        )
    ]


def warnings_of_forward(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """What one batch (B, C, H, W) shows of the model before any attack; B of 1 shows less."""
    found = []
    still_training = sorted({type(m).__name__ for m in model.modules() if m.training})
    if still_training:
        found.append(
            caution(
                "parts-left-in-training-mode",
                f"parts of the model stay in training mode after eval(): {', '.join(still_training)}; batch "
                "statistics or dropout there make predictions depend on chance and on the batch",
            )
        )
    with torch.no_grad():
        logits, again = model(x).float(), model(x).float()
        scale = logits.abs().max()
        if _differ(logits, again, scale):
            found.append(
                caution(
                    "random-forward-pass",
                    "two forward passes of the same images differ: against a randomised model these attacks fail for "
                    "want of a steady gradient, and the robust accuracy is an overestimate",
                )
            )
        elif len(x) > 1 and _differ(logits[: len(x) // 2], model(x[: len(x) // 2]).float(), scale):
            found.append(
                caution(
                    "predictions-that-depend-on-the-batch",
                    "the prediction for an image depends on the other images of its batch (batch statistics at test "
                    "time?): accuracies change with the batch size",
                )
            )
        if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-5):
            found.append(
                caution(
                    "probabilities-instead-of-logits",
                    "the model returns probabilities instead of logits: their gradients vanish where it is confident, "
                    "and attacks fail for that reason alone",
                )
            )
    blind, saturated = (_share_without_gradient(model, x, y, score) for score in (margin, cross_entropy))
    if blind > 0.01:
        found.append(
            caution(
                "no-gradient",
                f"the gradient is zero in every pixel of {_percent(blind)} of the images (does the model round or "
                "quantise its input?): white-box attacks see nothing there, and only a black-box attack (Square, in "
                "suite 'standard') tests them",
            )
        )
    elif saturated > 0.01:
        found.append(
            caution(
                "vanishing-gradients",
                f"the cross-entropy's gradient is zero in every pixel of {_percent(saturated)} of the images, and the "
                "margin's is not: the logits are so large that the softmax is exactly one, and attacks on the "
                "cross-entropy (FGSM, PGD, APGD-CE) see nothing",
            )
        )
    return found


def _share_without_gradient(model: nn.Module, x: Tensor, y: Tensor, score: Score) -> float:
    grad, _ = input_gradient(model, x, y, score)
    return (grad.flatten(1) == 0).all(1).float().mean().item()


def warnings_of_attacks(evidence: Evidence) -> list[str]:
    """What the attacks' successes show when compared with each other."""
    n = len(evidence.clean)
    broken, left = evidence.broken, evidence.left
    found = []
    clean = evidence.clean.float().mean().item()
    chance = 1 / evidence.classes
    if clean <= chance + 2 * math.sqrt(chance * (1 - chance) / n):
        found.append(
            caution(
                "accuracy-of-guessing",
                f"clean accuracy {_percent(clean)} is that of guessing among {evidence.classes} classes: do labels, "
                "pixel range and normalisation match the model's training?",
            )
        )
    multi_step = next((name for name in STRONGEST_FIRST if name in left), None)
    if multi_step is not None:
        fgsm_only = int((broken["fgsm"] & left[multi_step]).sum())
        other_only = int((left["fgsm"] & ~left[multi_step]).sum())
        missed = int((broken["fgsm"] & evidence.robust).sum())
        # Of the samples on which two equally strong attacks disagree either wins half; twice the standard deviation.
        if fgsm_only - other_only > 2 * math.sqrt(fgsm_only + other_only):
            found.append(
                caution(
                    "fgsm-stronger-than-pgd",
                    f"FGSM beats {multi_step} ({fgsm_only} images broken by FGSM alone against {other_only}): the loss "
                    "surface misleads attacks of many steps, a sign of gradient masking",
                )
            )
        elif missed > max(1, FEW * n):
            found.append(
                caution(
                    "fgsm-stronger-than-pgd",
                    f"FGSM breaks {missed} images that the whole suite leaves standing: its attacks are misled",
                )
            )
    same_loss = next((name for name in SAME_LOSS if name in left), None)
    if same_loss is not None:
        single, multi = (left[name].float().mean().item() for name in ("fgsm", same_loss))
        if multi < SAME_LOSS[same_loss] * single and single - multi > COLLAPSE_GAP:
            found.append(
                caution(
                    "catastrophic-overfitting",
                    f"FGSM accuracy {_percent(single)} is far above {same_loss} accuracy {_percent(multi)}: the "
                    "signature of catastrophic overfitting, where training used single-step attacks",
                )
            )
    by_gradient = torch.stack([fooled for name, fooled in broken.items() if name not in BLACK_BOX]).any(0)
    for name, who in BLACK_BOX.items():
        beaten = int((broken[name] & ~by_gradient).sum()) if name in broken else 0
        if beaten > max(1, FEW * n):
            found.append(
                caution(
                    "black-box-stronger-than-white-box",
                    f"{who} breaks {beaten} images that the white-box attacks did not: a sign of gradient masking, the "
                    "true robust accuracy may be lower still",
                )
            )
    if "apgd-t" not in broken:
        blind = int((evidence.saturated & evidence.robust).sum())
        if blind > max(1, FEW * n):
            found.append(
                caution(
                    "vanishing-gradients",
                    f"the cross-entropy of {blind} images counted robust is zero in float32: its gradient there is "
                    "rounding error, and attacks on it miss what suite 'standard' would find",
                )
            )
    return found


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()


def _differ(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    # Rounding alone differs by about 1e-6 of the largest logit between batch sizes.
    return bool((a - b).abs().max() > 1e-4 * scale)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
