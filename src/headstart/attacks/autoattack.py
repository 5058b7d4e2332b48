"""AutoAttack, version standard, from the reference authors' own code."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from headstart.errors import UserError, unknown
from headstart.threat import ThreatModel

BatchAttack = Callable[[Tensor, Tensor], Tensor]

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of AutoAttack's standard version, in its order."""

_NORMS = {"linf": "Linf"}

# APGD logs a warning for every batch in which a single sample has a zero gradient; the suite counts them once.
_QUIET = logging.getLogger("headstart.autoattack")
_QUIET.setLevel(logging.ERROR)


def targets(classes: int) -> int:
    """Target classes of APGD-T and FAB-T: nine in the standard version, every wrong class where there are fewer."""
    return min(9, classes - 1)


def autoattack(
    name: str, model: nn.Module, threat: ThreatModel, *, classes: int, seed: int = 0, device: torch.device | str = "cpu"
) -> BatchAttack:
    """One attack of AutoAttack's standard version (Croce & Hein, 2020, arXiv:2003.01690), as it is set up there.

    Run on batches of what the previous attacks left correct, in order and with the same seed, the attacks give
    what ``run_standard_evaluation`` gives. The global random generators are seeded anew for each batch.

    The one adjustment is the number of targets below ten classes, where the authors' code warns and then stops
    with an index error.

    Args:
        name: one of ``STANDARD``.
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode. Parameters that
            require gradients receive them from FAB, at a cost: freeze them.
        threat: the threat model.
        classes: number of classes K.
        seed: AutoAttack's seed.
        device: where the batches are.

    Returns:
        The attack, from images (B, C, H, W) and labels (B,) to adversarial examples of the same shape.

    Raises:
        UserError: unknown attack, a norm AutoAttack is not set up for, or too few classes for the attack.
    """
    if name not in STANDARD:
        raise unknown("attack of AutoAttack", name, STANDARD)
    if threat.norm not in _NORMS:
        raise UserError(f"AutoAttack is not set up for norm {threat.norm!r} (allowed: {', '.join(_NORMS)})")
    if name == "apgd-t" and classes < 4:
        raise UserError(
            f"AutoAttack's targeted loss compares four logits and the model has {classes} classes; use suite 'pgd'"
        )

    def logits(x: Tensor) -> Tensor:
        out: Tensor = model(x)
        return out.float()

    whole = AutoAttack(
        logits, norm=_NORMS[threat.norm], eps=threat.epsilon, seed=seed, version="standard", device=device
    )
    whole.apgd.logger = whole.apgd_targeted.logger = _QUIET
    whole.apgd.loss = "ce"
    whole.fab.targeted = True
    whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = targets(classes)
    perturb = {
        "apgd-ce": whole.apgd.perturb,
        "apgd-t": whole.apgd_targeted.perturb,
        "fab-t": whole.fab.perturb,
        "square": whole.square.perturb,
    }[name]

    @torch.no_grad()
    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = perturb(x.contiguous(), y)  # AutoAttack takes views that other layouts do not have
        return x_adv

    return attack
