"""The attacks by name, and the suites made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from headstart.attacks import autoattack
from headstart.attacks.autoattack import BatchAttack
from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd
from headstart.threat import ThreatModel


class Attack(Protocol):
    """What a suite asks of an attack.

    Attributes:
        summary: one line for lists.
        cumulative: run only on what the suite's earlier cumulative attacks left correct, as AutoAttack does;
            otherwise on every image that is classified correctly when clean.
    """

    @property
    def summary(self) -> str: ...

    @property
    def cumulative(self) -> bool: ...

    def settings(self, threat: ThreatModel, classes: int) -> str:
        """The settings against this threat model and number of classes, in words."""
        ...

    def prepare(
        self, model: nn.Module, threat: ThreatModel, *, classes: int, seed: int, device: torch.device
    ) -> BatchAttack:
        """The attack, from images and labels to adversarial examples; UserError where it cannot be run."""
        ...


@dataclass(frozen=True)
class FGSM:
    """``fgsm`` under a name."""

    summary: str = "fast gradient sign method, one step from the clean image"
    cumulative: bool = False

    def settings(self, threat: ThreatModel, classes: int) -> str:
        return "one step of epsilon"

    def prepare(
        self, model: nn.Module, threat: ThreatModel, *, classes: int, seed: int, device: torch.device
    ) -> BatchAttack:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            return fgsm(model, x, y, threat)

        return attack


@dataclass(frozen=True)
class PGD:
    """``pgd`` under a name, with the literature's step where it fits epsilon."""

    steps: int
    score: str
    summary: str
    cumulative: bool = False

    def alpha(self, threat: ThreatModel) -> float:
        """2/255 for epsilon of 8/255 to 16/255, the range it was chosen for; a quarter of epsilon outside it.

        Ten steps of 2/255 do not cross a larger ball, and in a smaller one they jump from corner to corner.
        """
        return 2 / 255 if 8 / 255 <= threat.epsilon <= 16 / 255 else threat.epsilon / 4

    def settings(self, threat: ThreatModel, classes: int) -> str:
        step = f"{255 * self.alpha(threat):g}/255"
        rule = "" if self.alpha(threat) == 2 / 255 else " (epsilon/4)"
        return f"{self.steps} steps of {step}{rule}, score {self.score}, one uniform start, fooled samples frozen"

    def prepare(
        self, model: nn.Module, threat: ThreatModel, *, classes: int, seed: int, device: torch.device
    ) -> BatchAttack:
        generator = torch.Generator(device).manual_seed(seed)
        alpha = self.alpha(threat)

        def attack(x: Tensor, y: Tensor) -> Tensor:
            return pgd(model, x, y, threat, steps=self.steps, alpha=alpha, score=self.score, generator=generator)

        return attack


@dataclass(frozen=True)
class AutoAttackPart:
    """One attack of AutoAttack's standard version."""

    name: str
    summary: str
    cumulative: bool = True

    def settings(self, threat: ThreatModel, classes: int) -> str:
        targets = f", {autoattack.targets(classes)} target classes" if self.name in ("apgd-t", "fab-t") else ""
        return f"as in AutoAttack's standard version{targets}"

    def prepare(
        self, model: nn.Module, threat: ThreatModel, *, classes: int, seed: int, device: torch.device
    ) -> BatchAttack:
        return autoattack.autoattack(self.name, model, threat, classes=classes, seed=seed, device=device)


@dataclass(frozen=True)
class Suite:
    """A fixed list of attacks; a sample counts as robust when it is correct clean and under all of them.

    Attributes:
        summary: one line for lists.
        attacks: names in ``ATTACKS``, in the order they are run.
        caveat: the warning each of its results carries.
    """

    summary: str
    attacks: tuple[str, ...]
    caveat: str | None = None


ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(),
    "pgd-10": PGD(10, "ce", "projected gradient descent on the cross-entropy, 10 steps"),
    "pgd-20": PGD(20, "ce", "projected gradient descent on the cross-entropy, 20 steps"),
    "pgd-50": PGD(50, "ce", "projected gradient descent on the cross-entropy, 50 steps"),
    "cw-20": PGD(20, "margin", "projected gradient descent on the Carlini-Wagner margin, 20 steps"),
    "apgd-ce": AutoAttackPart("apgd-ce", "AutoAttack's Auto-PGD on the cross-entropy, 100 steps"),
    "apgd-t": AutoAttackPart("apgd-t", "AutoAttack's Auto-PGD on the targeted logit-ratio loss, 100 steps a target"),
    "fab-t": AutoAttackPart("fab-t", "AutoAttack's targeted fast adaptive boundary attack, 100 steps a target"),
    "square": AutoAttackPart("square", "AutoAttack's black-box Square attack, 5,000 queries"),
}

_GRADIENT = ("fgsm", "pgd-10", "pgd-20", "pgd-50", "cw-20")

SUITES: dict[str, Suite] = {
    "fgsm": Suite(
        "one FGSM step; seconds",
        ("fgsm",),
        "FGSM alone says little: models that fall to several steps often withstand one",
    ),
    "light": Suite(
        "FGSM and PGD-20, for tables; seconds",
        ("fgsm", "pgd-20"),
        "robust accuracy under PGD is an upper bound; suite 'standard' (AutoAttack) gives the figure to report",
    ),
    "pgd": Suite(
        "FGSM, PGD-10, PGD-20, PGD-50 and C&W-20; minutes",
        _GRADIENT,
        "robust accuracy under PGD is an upper bound; suite 'standard' (AutoAttack) gives the figure to report",
    ),
    "quick": Suite(
        "APGD-CE and APGD-T, the first two attacks of AutoAttack: an upper bound of its robust accuracy",
        autoattack.STANDARD[:2],
        "suite 'quick' gives an upper bound; suite 'standard' (AutoAttack) gives the figure to report",
    ),
    "standard": Suite("AutoAttack's standard version: APGD-CE, APGD-T, FAB-T and Square", autoattack.STANDARD),
    "full": Suite("the attacks of 'pgd' and, independently of them, of 'standard'", _GRADIENT + autoattack.STANDARD),
}
