"""What the attacks' successes show when compared with each other: signs that gradients were of no use to them.

They follow Athalye, Carlini & Wagner (2018, arXiv:1802.00420), section 3.1, the checks of AutoAttack (Croce & Hein,
2020) and Carlini et al. (2019, arXiv:1902.06705).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from headstart.attacks.collapse import COLLAPSE_GAP, COLLAPSE_RATIO
from headstart.evaluation.outcome import Evidence
from headstart.evaluation.warnings import caution, percent

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


OTHER_LOSS = (("apgd-ce", "apgd-t"), ("pgd-20", "cw-20"))
"""An attack on the cross-entropy, and one of about as many steps on differences of logits."""
OUTDONE, OUTDONE_BY = 2 / 3, 0.15
"""The second leaves less than this share of what the first leaves, and the two are so many points apart."""


def warnings_of_attacks(evidence: Evidence, *, unanswered: int = 0, unsteady: bool = False) -> list[str]:
    """What the attacks' successes show when compared with each other.

    Args:
        unanswered: images whose worst example has logits that are not finite.
        unsteady: the logits move in a way of which the gradient says little; many steps then find more than one because
            they try more often, which is no catastrophic overfitting.
    """
    checks = [check for check in ATTACK_CHECKS if not (unsteady and check is catastrophic_overfitting)]
    return [*no_answer(unanswered), *(warning for check in checks for warning in check(evidence))]


def no_answer(images: int) -> Iterator[str]:
    """Examples to which the model has no answer."""
    if images:
        yield caution(
            "logits-not-finite",
            f"the logits of {images} images are not finite (NaN or infinite) under attack, and these images count as "
            "broken: find the overflow or division in the model, or say that it fails so",
        )


def guessing(evidence: Evidence) -> Iterator[str]:
    """A clean accuracy within two standard deviations of chance."""
    clean, chance = _share(evidence.clean), 1 / evidence.classes
    if clean <= chance + 2 * math.sqrt(chance * (1 - chance) / len(evidence.clean)):
        yield caution(
            "accuracy-of-guessing",
            f"clean accuracy {percent(clean)} is that of guessing among {evidence.classes} classes: do labels, "
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
            f"FGSM accuracy {percent(single)} is far above {same_loss} accuracy {percent(multi)}: the "
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


def misled_loss(evidence: Evidence) -> Iterator[str]:
    """An attack on differences of logits that does far better than one on the cross-entropy."""
    for blind, seeing in OTHER_LOSS:
        if blind in evidence.left and seeing in evidence.left:
            before, after = _share(evidence.left[blind]), _share(evidence.left[seeing])
            if after < OUTDONE * before and before - after > OUTDONE_BY:
                yield caution(
                    "cross-entropy-misled",
                    f"{blind} leaves {percent(before)} and {seeing} {percent(after)}: the cross-entropy leads attacks "
                    "astray (gradients that are wrong or hidden, logits out of scale), so what rests on it is "
                    "far too high, and the rest may be; look at the other warnings, and at suite 'full'",
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


ATTACK_CHECKS = (guessing, misled_steps, catastrophic_overfitting, misled_loss, useless_gradients, saturated_loss)


def _many(images: int, evidence: Evidence) -> bool:
    return images > max(1, FEW * len(evidence.clean))


def _share(flags: Tensor) -> float:
    return flags.float().mean().item()
