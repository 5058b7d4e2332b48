"""How far an attack has come inside a batch, told by how often it has asked the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from headstart.attacks.autoattack import targets
from headstart.attacks.cr import ITERATIONS, ROUNDS
from headstart.evaluation.suites import ATTACKS, CR, PGD, AutoAttackPart, Task, Transfer

APGD, FAB, SQUARE, AVERAGED = 101, 100, 5000, 20
"""Steps of Auto-PGD, with the gradient at its start, and of FAB; Square's queries; passes for a gradient in rand."""


@dataclass(frozen=True)
class Course:
    """What an attack does at most with a batch; one whose images are all broken ends sooner.

    Attributes:
        model: is asked by it.
        whom: which images it is run on, in words.
        rounds: restarts or targets, one after the other, each called ``word``.
        steps: of a round, each called ``step``.
        passes: forward passes of a step.
    """

    model: nn.Module
    whom: str
    steps: int
    rounds: int = 1
    word: str = "target"
    step: str = "step"
    passes: int = 1

    def share(self, asked: int) -> float:
        """Of the batch's work that is done after so many forward passes, at most 1."""
        return min(1.0, asked / (self.rounds * self.steps * self.passes))

    def where(self, asked: int) -> str:
        """The place after so many forward passes, in words."""
        done = min(max(asked - 1, 0) // self.passes, self.rounds * self.steps - 1)
        place, step = divmod(done, self.steps)
        there = f"{self.step} {step + 1}/{self.steps}"
        return there if self.rounds == 1 else f"{self.word} {place + 1}/{self.rounds} {there}"


def course_of(name: str, task: Task) -> Course:
    """The course of an attack of ``ATTACKS`` against a task."""
    attack = ATTACKS[name]
    whom = "still correct" if attack.chain else "correct without attack"
    if isinstance(attack, PGD):
        return Course(task.model, whom, attack.steps + (attack.restarts > 1), attack.restarts, word="start")
    if isinstance(attack, CR):
        # Each round descends to each target, with up to two passes a step; most samples leave long before the end.
        aims = math.ceil(math.log(task.classes))
        return Course(task.model, whom, 2 * ROUNDS * aims * ITERATIONS, step="pass")
    if isinstance(attack, Transfer) and task.source is not None:
        return Course(task.source, whom, APGD)
    if isinstance(attack, AutoAttackPart):
        return _of_autoattack(attack, task, whom)
    return Course(task.model, whom, 1)


def _of_autoattack(attack: AutoAttackPart, task: Task, whom: str) -> Course:
    aims = targets(task.classes)
    if attack.chain == "rand":
        return Course(task.model, whom, APGD, passes=AVERAGED)
    if attack.name == "apgd-t":
        return Course(task.model, whom, APGD, aims)
    if attack.name == "fab-t":
        return Course(task.model, whom, FAB, aims, passes=2)
    if attack.name == "square":
        return Course(task.model, whom, SQUARE, step="query")
    return Course(task.model, whom, APGD)
