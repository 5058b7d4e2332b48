"""The tightest upper bound on robust accuracy that a given time allows. It is no AutoAttack, and no suite.

How many images are dealt follows from the budget and the pace of the machine alone, never from what becomes of them.
Every image dealt counts, and as standing unless something broke it. So each robust image among them stands, whichever
attacks were chosen in the light of what they broke, and the upper end of the interval holds for the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from headstart.errors import SettingError
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.estimate import Clock, Cost, Pace, cost_of
from headstart.evaluation.measurement import Measurement

LEAST = 400
"""Images dealt where there is time for few: the interval is then five points to either side."""
EXPECTED: dict[str, float] = {
    "fgsm": 0.3, "pgd-10": 0.15, "apgd-ce": 0.05, "apgd-t": 0.08, "square": 0.005, "fab-t": 0.002,
}  # fmt: skip
"""The attacks, and the share of the standing images that each may break: a guess that its first batches overrule."""
GUESSED = 20
"""Images for which the guesses of breaks and seconds count."""
AT_ONCE = 0.1
"""Share of the budget that a batch may take, so that the choice is made often enough."""


@dataclass
class Weapon:
    """An attack and how it fares.

    Attributes:
        cost: what it costs by its passes.
        untried: rows that it has not been run on.
        tried, broken, seconds: of its batches so far.
        foreseen: seconds that ``cost`` gave those batches.
        others: how many times as long as foreseen the slowest of the attacks took; passes are not all that they do.
    """

    name: str
    attacker: Attacker
    cost: Cost
    untried: Tensor
    tried: int = 0
    broken: int = 0
    seconds: float = 0.0
    foreseen: float = 0.0
    others: float = 1.0

    @property
    def slower(self) -> float:
        """How many times as long as foreseen it takes."""
        guessed = self.cost(GUESSED)
        return (self.seconds + guessed * self.others) / (self.foreseen + guessed) if guessed else 1.0

    def fitting(self, seconds: float) -> int:
        """How many images it can be run on in that time."""
        left = seconds / self.slower - self.cost.fixed
        return 0 if left < self.cost.each else int(min(left / max(self.cost.each, 1e-12), len(self.untried)))

    def yields(self, images: int) -> float:
        """Images broken in a second of a batch of so many."""
        share = (self.broken + GUESSED * EXPECTED[self.name]) / (self.tried + GUESSED)
        return share * images / max(self.slower * self.cost(images), 1e-12)


@dataclass
class Hunt:
    """The images dealt, and the attacks on them till the time is up.

    Args:
        measured: of the images dealt, before any attack that counts.
        pace: of the version of the model that attacks query.
        ends: by ``clock``.
        longest: seconds that a batch may take.
    """

    measured: Measurement
    pace: Pace
    clock: Clock
    ends: float
    longest: float
    weapons: list[Weapon] = field(init=False)
    standing: Tensor = field(init=False)
    broken_by: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.standing = self.measured.outcome.evidence.clean.clone()
        self.broken_by = [None if right else "clean" for right in self.standing.tolist()]
        self.weapons = list(self._armed())

    def _armed(self) -> Iterator[Weapon]:
        """The attacks that can be run on this model."""
        done, rows = self.measured, self.standing.nonzero().squeeze(1)
        for name in EXPECTED:
            try:
                attacker = Attacker(name, done.model, done.task, done.precision == "tf32")
            except SettingError:  # too few classes
                continue
            yield Weapon(name, attacker, cost_of(name, done.task.classes, self.pace), rows)

    def run(self) -> None:
        """Always go on with the attack that breaks most in a second, as far as there is time for one more image."""
        draw = Generator().manual_seed(self.measured.plan.seed)
        while (chosen := self._chosen()) is not None:
            weapon, rows = chosen
            seed = int(torch.randint(2**62, (1,), generator=draw))
            began = self.clock()
            verdict = weapon.attacker(*self.measured.images.batch(rows), seed)
            fallen = rows[~verdict.right.cpu()]
            self._note(weapon, rows, fallen, self.clock() - began)
            unanswered = rows[verdict.margin.cpu().isinf()]
            self.measured.outcome.margin[unanswered] = float("inf")

    def _chosen(self) -> tuple[Weapon, Tensor] | None:
        """The next attack with its batch; None where nothing is left, or no time."""
        left, size = self.ends - self.clock(), self.measured.plan.batch_size
        sizes = []
        for weapon in self.weapons:
            weapon.untried = weapon.untried[self.standing[weapon.untried]]
            usual = max(GUESSED, weapon.fitting(self.longest))
            sizes.append(min(weapon.fitting(left), usual, size))
        able = [(weapon, n) for weapon, n in zip(self.weapons, sizes, strict=True) if n]
        if not able:
            return None
        best, n = max(able, key=lambda pair: pair[0].yields(pair[1]))
        return best, best.untried[:n]

    def _note(self, weapon: Weapon, rows: Tensor, fallen: Tensor, seconds: float) -> None:
        weapon.foreseen += weapon.cost(len(rows))
        weapon.untried = weapon.untried[len(rows) :]
        weapon.tried += len(rows)
        weapon.broken += len(fallen)
        weapon.seconds += seconds
        for other in self.weapons:
            other.others = max(other.others, weapon.seconds / max(weapon.foreseen, 1e-12))
        self.standing[fallen] = False
        for row in fallen.tolist():
            self.broken_by[row] = weapon.name

    @property
    def finished(self) -> bool:
        """Every attack was run on every image that still stands."""
        return not any(bool(self.standing[weapon.untried].any()) for weapon in self.weapons)


def cards(pace: Pace, seconds: float, total: int, classes: int, batch_size: int) -> int:
    """How many of ``total`` images to deal: as many as there is time to attack with FGSM, PGD, APGD-CE and APGD-T.

    Three of four are taken to be classified correctly and to stand before FGSM and PGD, three of five before APGD-CE,
    half before APGD-T. Where that makes fewer than ``LEAST``, so many are dealt all the same, if a quarter of the time
    is enough to classify them and to look at model and gradient.
    """
    shares = {"fgsm": 0.75, "pgd-10": 0.75, "apgd-ce": 0.6, "apgd-t": 0.5}
    costs = [(share, cost_of(name, classes, pace)) for name, share in shares.items()] + [(1.0, pace.forward)]
    each = sum(share * (cost.each + cost.fixed / batch_size) for share, cost in costs)
    before = 2.5 * pace.forward.each + 2 * pace.both.each  # the passes of ``classify_clean`` and ``probe``
    least = min(LEAST, int(seconds / 4 / max(before, 1e-12)))
    return max(1, min(total, max(int(seconds / max(each, 1e-12)), least)))
