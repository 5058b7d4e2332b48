"""AutoAttack: which attacks, in which order, ours or the reference authors' own code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstart.attacks.apgd import apgd_ce, apgd_t
from headstart.attacks.fab import fab_t
from headstart.attacks.square import State, square
from headstart.core.threat import ThreatModel
from headstart.errors import SettingError, extra, unknown

if TYPE_CHECKING:
    from pyautoattack import AutoAttack

VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of each of AutoAttack's versions, in its order."""

_NORMS = {"linf": "Linf", "l2": "L2"}

# APGD logs a warning for every batch in which a single sample has a zero gradient; the suite counts them once.
_QUIET = logging.getLogger("headstart.autoattack")
_QUIET.setLevel(logging.ERROR)


def targets(classes: int) -> int:
    """Target classes of APGD-T and FAB-T: nine in the standard version, every wrong class where there are fewer."""
    return min(9, classes - 1)


@torch.no_grad()
def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, version: str = "standard", seed: int = 0
) -> Tensor:
    """AutoAttack (Croce & Hein, 2020, arXiv:2003.01690): each attack on the images that those before it left correct.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.
        version: "standard", or "rand" for models with random forward passes.
        seed: AutoAttack's seed; the global random generators are left as they were.

    Returns:
        Adversarial examples inside the threat model, of the shape of ``x``; images that nothing breaks as they are.

    Raises:
        SettingError: unknown version, a norm AutoAttack is not set up for, or too few classes.
    """
    if version not in VERSIONS:
        raise unknown("version of AutoAttack", version, VERSIONS)
    x_adv, logits = x.clone(), model(x)
    attacks = [
        attack_of(name, model, threat, classes=logits.shape[1], seed=seed, device=x.device, version=version)
        for name in VERSIONS[version]
    ]
    left = (logits.argmax(1) == y).nonzero().squeeze(1)
    with _frozen(model), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        for attack in attacks:
            if len(left):
                delta = threat.project(attack(x[left], y[left]) - x[left])
                found = x[left] + threat.box(x[left], delta)
                stands = model(found).argmax(1) == y[left]
                x_adv[left[~stands]] = found[~stands]
                left = left[stands]
    return x_adv


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter gets a gradient, which FAB would give them."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_()


@dataclass
class Slot:
    """Where a long attack keeps its state while it runs, so that it can go on after it was cut off.

    Attributes:
        state: to begin with; None begins anew.
        keep: is given the state now and then.
    """

    state: State | None = None
    keep: Callable[[State], None] | None = None


def attack_of(
    name: str,
    model: nn.Module,
    threat: ThreatModel,
    *,
    classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    version: str = "standard",
    alone: bool = False,
    judge: nn.Module | None = None,
    slot: Slot | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """One attack of AutoAttack as it is set up there, from images (B, C, H, W) and labels (B,) to examples.

    Run on batches of what the previous attacks left correct, in order and with the same seed, the attacks give
    the verdicts of ``run_standard_evaluation``: the standard version's are ours, which make the reference code's steps
    from the same random numbers and leave an image once it is broken; Square in the Euclidean norm and version rand are
    the reference code itself. The one adjustment is the number of targets below ten classes, where the reference code
    warns and then stops.

    Args:
        name: one of ``VERSIONS[version]``.
        model: in evaluation mode, and frozen.
        device: where the batches are.
        alone: the logits of an image depend on nothing else, so Square need not ask twice.
        judge: the model that must be fooled; ``model`` where None.
        slot: for Square in the maximum norm.

    Raises:
        SettingError: see ``autoattack``; unknown attack.
    """
    _check(name, version, classes)
    _check_norm(threat)
    if version == "rand" or (name == "square" and threat.norm != "linf"):
        return _reference(name, model, threat, seed, device, version)
    aims, slot = targets(classes), slot or Slot()
    attacks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "apgd-ce": lambda x, y: apgd_ce(model, x, y, threat, seed=seed, judge=judge),
        "apgd-t": lambda x, y: apgd_t(model, x, y, threat, targets=aims, seed=seed, judge=judge),
        "fab-t": lambda x, y: fab_t(model, x, y, threat, targets=aims, judge=judge),
        "square": lambda x, y: square(
            model, x, y, threat, seed=seed, alone=alone, judge=judge, state=slot.state, keep=slot.keep
        ),
    }
    return attacks[name]


def _reference(
    name: str, model: nn.Module, threat: ThreatModel, seed: int, device: torch.device | str, version: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """The reference code's attack; the global random generators are seeded anew for each batch."""
    whole = _set_up(model, threat, seed, device, version)
    whole.apgd.loss = name.removeprefix("apgd-")
    chosen = whole.square if name == "square" else whole.apgd

    @torch.no_grad()
    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = chosen.perturb(x.contiguous(), y)  # AutoAttack takes views that other layouts do not have
        return x_adv

    return attack


def _check(name: str, version: str, classes: int) -> None:
    """Refuse an attack that does not exist, or that needs more classes."""
    if version not in VERSIONS:
        raise unknown("version of AutoAttack", version, VERSIONS)
    if name not in VERSIONS[version]:
        raise unknown("attack of AutoAttack", name, VERSIONS[version])
    needed = {"apgd-t": 4, "apgd-dlr": 3}.get(name, 2)
    if classes < needed:
        numeral = {4: "four", 3: "three"}[needed]
        kind = "targeted loss" if name == "apgd-t" else "logit-ratio loss"
        raise SettingError(
            f"AutoAttack's {kind} compares {numeral} logits and the model has {classes} classes; use suite 'pgd'"
        )


def _check_norm(threat: ThreatModel) -> None:
    if threat.norm not in _NORMS:
        raise SettingError(f"AutoAttack is not set up for norm {threat.norm!r} (allowed: {', '.join(_NORMS)})")


def highest_loss(
    model: nn.Module, threat: ThreatModel, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Callable[[Tensor, Tensor], Tensor]:
    """APGD-CE's points of highest cross-entropy, whether they fool the model or not: examples for another model.

    Arguments, result and errors are those of ``attack_of``; the random starts come from the global generators.
    """
    whole = _set_up(model, threat, seed, device, "standard")
    whole.apgd.loss = "ce"

    @torch.no_grad()
    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = whole.apgd.perturb(x.contiguous(), y, best_loss=True)
        return x_adv

    return attack


def _set_up(model: nn.Module, threat: ThreatModel, seed: int, device: torch.device | str, version: str) -> AutoAttack:
    with extra("evaluate"):
        from pyautoattack import AutoAttack
    _check_norm(threat)

    def logits(x: Tensor) -> Tensor:
        out: Tensor = model(x)
        if x.requires_grad and not out.requires_grad:  # the image is cut off inside the model: its gradient is zero
            out = out + 0 * x.flatten(1).sum(1, keepdim=True)
        return out.float()

    whole = AutoAttack(logits, norm=_NORMS[threat.norm], eps=threat.epsilon, seed=seed, version=version, device=device)
    whole.apgd.logger = whole.apgd_targeted.logger = _QUIET
    return whole
