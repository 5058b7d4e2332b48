"""Which of several is the most robust, and which others the images cannot tell from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from headstart.report.numbers import Spread, level, percent

_FEW = 4  # names in a sentence


@dataclass(frozen=True)
class Ranking:
    """The highest accuracy, a fraction, and who has it.

    Attributes:
        best: those that have it; several are equal in it to the last image.
        level: the others whose difference from it is not shown.
        of: how many were measured.
    """

    accuracy: float
    best: list[str]
    level: list[str]
    of: int

    @property
    def top(self) -> set[str]:
        """The best and those level with them."""
        return {*self.best, *self.level}

    def sentence(self, measure: str, how: str = "") -> str:
        """Who is the best in words, all who may be."""
        accuracy = f"{percent(self.accuracy, '%')}{how}"
        if len(self.best) == self.of > 1:
            return f"{_listed(self.best)} have the same {measure}: {accuracy}"
        have = "has" if len(self.best) == 1 else "have"
        said = f"{_listed(self.best)} {have} the highest {measure} of the {self.of} measured: {accuracy}"
        if not self.level:
            return said
        verb = "is" if len(self.level) == 1 else "are"
        return f"{said}; {_listed(self.level)} {verb} level within the 95% interval"


def ranking(accuracies: Mapping[str, Spread | None], paired: Mapping[str, bool] | None = None) -> Ranking | None:
    """Who is the best of those that were measured; None where nobody was.

    Args:
        accuracies: by name.
        paired: by name, whether a comparison with the best, image by image, left open which of the two is better.
            Where there is none, the intervals of both accuracies tell.
    """
    known = {name: found for name, found in accuracies.items() if found is not None}
    if not known:
        return None
    highest = max(known.values(), key=lambda found: found.mean)
    best = [name for name, found in known.items() if found.mean == highest.mean]
    open_ = {name: level(highest, found) for name, found in known.items()} | dict(paired or {})
    others = [name for name in known if name not in best and open_[name]]
    return Ranking(highest.mean, best, others, len(known))


def _listed(names: Collection[str]) -> str:
    shown = [*names]
    if len(shown) > _FEW:
        shown = [*shown[: _FEW - 1], f"{len(shown) - _FEW + 1} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
