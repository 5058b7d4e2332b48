"""The attacks by name, and the suites made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.autoattack import Slot, attack_of, highest_loss, targets
from headstart.attacks.cr import cr_attack
from headstart.attacks.fgsm import fgsm
from headstart.attacks.pgd import pgd, usual_step
from headstart.core.threat import ThreatModel
from headstart.errors import unknown

BatchAttack = Callable[[Tensor, Tensor, Generator], Tensor]
"""From images (B, C, H, W), labels (B,) and the batch's own random numbers to adversarial examples (B, C, H, W)."""


@dataclass(frozen=True)
class Task:
    """What an attack is up against.

    Attributes:
        model: maps fp32 images (B, C, H, W) in [0, 1] to fp32 logits (B, K); in evaluation mode, frozen.
        threat: the threat model.
        classes: number of classes K.
        device: where the batches are.
        seed: of attacks that seed themselves.
        random: two forward passes of the same image differ.
        alone: the logits of an image do not depend on the other images of its batch, and are not random.
        source: a second model, of the same kind, whose adversarial examples are tried on the first.
        judge: the model that is evaluated, where ``model`` is another version of it.
        slot: for the state of a long attack.
    """

    model: nn.Module
    threat: ThreatModel
    classes: int
    device: torch.device
    seed: int = 0
    random: bool = False
    alone: bool = True
    source: nn.Module | None = None
    judge: nn.Module | None = None
    slot: Slot | None = None


@dataclass(frozen=True)
class Attack:
    """What a suite asks of an attack.

    Attributes:
        summary: one line for lists.
        chain: attacks of the same chain are each run on what those before left correct, as AutoAttack does; one
            without a chain is run on every image that is classified correctly when clean.
    """

    summary: str
    chain: str | None = None

    def skipped(self, task: Task) -> str | None:
        """Why a suite leaves the attack out here; None where it does not."""
        return None

    def settings(self, task: Task) -> str:
        """The settings against this threat model and number of classes, in words."""
        raise NotImplementedError

    def prepare(self, task: Task) -> BatchAttack:
        """The attack, ready for batches; UserError where it cannot be run."""
        raise NotImplementedError


@dataclass(frozen=True)
class FGSM(Attack):
    """``fgsm`` under a name."""

    def settings(self, task: Task) -> str:
        return "one step of epsilon"

    def prepare(self, task: Task) -> BatchAttack:
        return lambda x, y, generator: fgsm(task.model, x, y, task.threat)


@dataclass(frozen=True)
class PGD(Attack):
    """``pgd`` under a name."""

    steps: int = 20
    score: str = "ce"
    restarts: int = 1

    def settings(self, task: Task) -> str:
        alpha = usual_step(task.threat)
        step = "2/255" if alpha == 2 / 255 else f"{255 * alpha:g}/255 (epsilon/4)"
        starts = "one uniform start" if self.restarts == 1 else f"{self.restarts} uniform starts"
        return f"{self.steps} steps of {step}, score {self.score}, {starts}, fooled samples frozen"

    def prepare(self, task: Task) -> BatchAttack:
        def attack(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
            return pgd(
                task.model, x, y, task.threat, steps=self.steps, restarts=self.restarts, score=self.score,
                generator=generator, cycles=task.alone,
            )  # fmt: skip

        return attack


@dataclass(frozen=True)
class CR(Attack):
    """``cr_attack`` under a name."""

    def skipped(self, task: Task) -> str | None:
        return None if task.threat.norm == "linf" else "is for norm linf"

    def settings(self, task: Task) -> str:
        return "five rounds of targeted steps in a ball that is relaxed and tightened in turn"

    def prepare(self, task: Task) -> BatchAttack:
        def attack(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
            return cr_attack(task.model, x, y, task.threat, generator=generator)

        return attack


@dataclass(frozen=True)
class AutoAttackPart(Attack):
    """One attack of AutoAttack, in the version that its chain names."""

    chain: str | None = "standard"
    name: str = ""

    def skipped(self, task: Task) -> str | None:
        return "is for random forward passes" if self.chain == "rand" and not task.random else None

    def settings(self, task: Task) -> str:
        aims = f", {targets(task.classes)} target classes" if self.name in ("apgd-t", "fab-t") else ""
        averaged = ", gradients averaged over 20 forward passes" if self.chain == "rand" else ""
        return f"as in AutoAttack's version {self.chain}{aims}{averaged}"

    def prepare(self, task: Task) -> BatchAttack:
        assert self.chain is not None
        attack = attack_of(
            self.name, task.model, task.threat, classes=task.classes, seed=task.seed, device=task.device,
            version=self.chain, alone=task.alone, judge=task.judge, slot=task.slot,
        )  # fmt: skip
        return lambda x, y, generator: attack(x, y)


@dataclass(frozen=True)
class Transfer(Attack):
    """APGD-CE's points of highest loss on the source model: what an attacker without the model's gradients has."""

    def skipped(self, task: Task) -> str | None:
        return "needs a second model (transfer_from)" if task.source is None else None

    def settings(self, task: Task) -> str:
        return "APGD-CE on the second model, 100 steps, the points of highest loss"

    def prepare(self, task: Task) -> BatchAttack:
        assert task.source is not None
        attack = highest_loss(task.source, task.threat, seed=task.seed, device=task.device)
        return lambda x, y, generator: attack(x, y)


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
    "fgsm": FGSM("fast gradient sign method, one step from the clean image"),
    "pgd-10": PGD("projected gradient descent on the cross-entropy, 10 steps", steps=10),
    "pgd-20": PGD("projected gradient descent on the cross-entropy, 20 steps", steps=20),
    "pgd-50": PGD("projected gradient descent on the cross-entropy, 50 steps", steps=50),
    "pgd-50-10": PGD("projected gradient descent on the cross-entropy, 50 steps, 10 restarts", steps=50, restarts=10),
    "cw-20": PGD("projected gradient descent on the Carlini-Wagner margin, 20 steps", steps=20, score="margin"),
    "apgd-ce": AutoAttackPart("AutoAttack's Auto-PGD on the cross-entropy, 100 steps", name="apgd-ce"),
    "apgd-t": AutoAttackPart(
        "AutoAttack's Auto-PGD on the targeted logit-ratio loss, 100 steps a target", name="apgd-t"
    ),
    "fab-t": AutoAttackPart("AutoAttack's targeted fast adaptive boundary attack, 100 steps a target", name="fab-t"),
    "square": AutoAttackPart("AutoAttack's black-box Square attack, 5,000 queries", name="square"),
    "cr": CR("constraint-relaxation attack (Pan et al., AAAI 2025): much cheaper than AutoAttack, about as strong"),
    "transfer": Transfer("examples made on a second model, tried on this one"),
    "apgd-ce-rand": AutoAttackPart(
        "APGD-CE of AutoAttack's version for random models: each gradient a mean of 20", chain="rand", name="apgd-ce"
    ),
    "apgd-dlr-rand": AutoAttackPart(
        "APGD on the logit ratio, of AutoAttack's version for random models", chain="rand", name="apgd-dlr"
    ),
}

_GRADIENT = ("fgsm", "pgd-10", "pgd-20", "pgd-50", "cw-20")
_STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")

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
        _STANDARD[:2],
        "suite 'quick' gives an upper bound; suite 'standard' (AutoAttack) gives the figure to report",
    ),
    "standard": Suite("AutoAttack's standard version: APGD-CE, APGD-T, FAB-T and Square", _STANDARD),
    "full": Suite(
        "'standard', the CR attack, PGD-50 with 10 restarts, examples from a second model where one is given, and "
        "AutoAttack's version for random models where the model is one",
        (*_STANDARD, "cr", "pgd-50-10", "transfer", "apgd-ce-rand", "apgd-dlr-rand"),
    ),
}


def find_suite(name: str) -> Suite:
    """The suite of this name.

    Raises:
        SettingError: there is none.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]
