"""Signs that a robust accuracy cannot be trusted, each a sentence with its reason and where the remedy stands.

The signs of gradient masking follow Athalye, Carlini & Wagner (2018, arXiv:1802.00420), section 3.1, the checks
of AutoAttack (Croce & Hein, 2020) and Carlini et al. (2019, arXiv:1902.06705).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from headstart.attacks.collapse import COLLAPSE_GAP, COLLAPSE_RATIO
from headstart.evaluation.outcome import Evidence
from headstart.evaluation.probe import Probe

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


# Of the images -----------------------------------------------------------------------------------------------------


def warnings_of_subset(n: int, total: int | None) -> list[str]:
    """Fewer images than the test set has."""
    if total is None or n >= total:
        return []
    return [
        caution(
            "part-of-the-test-set",
            f"evaluated on {n} of {total} test images: the accuracies of the full set may differ by up to "
            f"{100 * 1.96 * math.sqrt(0.25 / n):.1f} points (95 % interval)",
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


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()


# Of the forward pass -----------------------------------------------------------------------------------------------


def warnings_of_forward(found: Probe) -> list[str]:
    """What one batch shows of the model before any attack."""
    return [warning for check in FORWARD_CHECKS for warning in check(found)]


def in_training(found: Probe) -> Iterator[str]:
    """Parts that do not follow ``eval()``."""
    if found.in_training:
        yield caution(
            "parts-left-in-training-mode",
            f"parts of the model stay in training mode after eval(): {', '.join(found.in_training)}; batch "
            "statistics or dropout there make predictions depend on chance and on the batch",
        )


def chance_or_company(found: Probe) -> Iterator[str]:
    """Logits that depend on chance, or on the other images."""
    if found.random:
        yield caution(
            "random-forward-pass",
            "two forward passes of the same images differ: against a randomised model these attacks fail for "
            "want of a steady gradient, and the robust accuracy is an overestimate",
        )
    elif not found.alone:
        yield caution(
            "predictions-that-depend-on-the-batch",
            "the prediction for an image depends on the other images of its batch (batch statistics at test "
            "time?): accuracies change with the batch size",
        )


def probabilities(found: Probe) -> Iterator[str]:
    """A softmax at the end."""
    logits = found.logits
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-5):
        yield caution(
            "probabilities-instead-of-logits",
            "the model returns probabilities instead of logits: their gradients vanish where it is confident, "
            "and attacks fail for that reason alone",
        )


def no_gradient(found: Probe) -> Iterator[str]:
    """Images in which no pixel has a gradient, of any score or of the cross-entropy alone."""
    if found.blind > 0.01:
        yield caution(
            "no-gradient",
            f"the gradient is zero in every pixel of {_percent(found.blind)} of the images (does the model round or "
            "quantise its input?): white-box attacks see nothing there, and only a black-box attack (Square, in "
            "suite 'standard') tests them",
        )
    elif found.saturated > 0.01:
        yield caution(
            "vanishing-gradients",
            f"the cross-entropy's gradient is zero in every pixel of {_percent(found.saturated)} of the images, and "
            "the margin's is not: the logits are so large that the softmax is exactly one, and attacks on the "
            "cross-entropy (FGSM, PGD, APGD-CE) see nothing",
        )


FORWARD_CHECKS = (in_training, chance_or_company, probabilities, no_gradient)


# Of the attacks ----------------------------------------------------------------------------------------------------


def warnings_of_attacks(evidence: Evidence) -> list[str]:
    """What the attacks' successes show when compared with each other."""
    return [warning for check in ATTACK_CHECKS for warning in check(evidence)]


def guessing(evidence: Evidence) -> Iterator[str]:
    """A clean accuracy within two standard deviations of chance."""
    clean, chance = _share(evidence.clean), 1 / evidence.classes
    if clean <= chance + 2 * math.sqrt(chance * (1 - chance) / len(evidence.clean)):
        yield caution(
            "accuracy-of-guessing",
            f"clean accuracy {_percent(clean)} is that of guessing among {evidence.classes} classes: do labels, "
            "pixel range and normalisation match the model's training?",
        )


def misled_steps(evidence: Evidence) -> Iterator[str]:
    """One step that does better than many, or than the whole suite."""
    multi_step = next((name for name in STRONGEST_FIRST if name in evidence.left), None)
    if multi_step is None:
        return
    fgsm, multi_left = evidence.broken["fgsm"], evidence.left[multi_step]
    fgsm_only, other_only = int((fgsm & multi_left).sum()), int((evidence.left["fgsm"] & ~multi_left).sum())
    missed = int((fgsm & evidence.robust).sum())
    # Of the samples on which two equally strong attacks disagree either wins half; twice the standard deviation.
    if fgsm_only - other_only > 2 * math.sqrt(fgsm_only + other_only):
        yield caution(
            "fgsm-stronger-than-pgd",
            f"FGSM beats {multi_step} ({fgsm_only} images broken by FGSM alone against {other_only}): the loss "
            "surface misleads attacks of many steps, a sign of gradient masking",
        )
    elif _many(missed, evidence):
        yield caution(
            "fgsm-stronger-than-pgd",
            f"FGSM breaks {missed} images that the whole suite leaves standing: its attacks are misled",
        )


def catastrophic_overfitting(evidence: Evidence) -> Iterator[str]:
    """Many steps on FGSM's own loss break what one step does not."""
    same_loss = next((name for name in SAME_LOSS if name in evidence.left), None)
    if same_loss is None:
        return
    single, multi = _share(evidence.left["fgsm"]), _share(evidence.left[same_loss])
    if multi < SAME_LOSS[same_loss] * single and single - multi > COLLAPSE_GAP:
        yield caution(
            "catastrophic-overfitting",
            f"FGSM accuracy {_percent(single)} is far above {same_loss} accuracy {_percent(multi)}: the "
            "signature of catastrophic overfitting, where training used single-step attacks",
        )


def useless_gradients(evidence: Evidence) -> Iterator[str]:
    """Attacks without the model's gradient that find what those with it do not."""
    by_gradient = torch.stack([fooled for name, fooled in evidence.broken.items() if name not in BLACK_BOX]).any(0)
    for name, who in BLACK_BOX.items():
        beaten = int((evidence.broken[name] & ~by_gradient).sum()) if name in evidence.broken else 0
        if _many(beaten, evidence):
            yield caution(
                "black-box-stronger-than-white-box",
                f"{who} breaks {beaten} images that the white-box attacks did not: a sign of gradient masking, the "
                "true robust accuracy may be lower still",
            )


def saturated_loss(evidence: Evidence) -> Iterator[str]:
    """Robust images on which the cross-entropy has nothing to climb, where no other loss was tried."""
    blind = int((evidence.saturated & evidence.robust).sum())
    if "apgd-t" not in evidence.broken and _many(blind, evidence):
        yield caution(
            "vanishing-gradients",
            f"the cross-entropy of {blind} images counted robust is zero in float32: its gradient there is "
            "rounding error, and attacks on it miss what suite 'standard' would find",
        )


ATTACK_CHECKS = (guessing, misled_steps, catastrophic_overfitting, useless_gradients, saturated_loss)


def _many(images: int, evidence: Evidence) -> bool:
    return images > max(1, FEW * len(evidence.clean))


def _share(flags: Tensor) -> float:
    return flags.float().mean().item()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
