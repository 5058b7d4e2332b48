"""What every method documents of itself, in one table. A new method adds its row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headstart.core import Passes


def always(forwards: int, input_gradients: int, backwards: int) -> Callable[[int], Passes]:
    """The same passes on every batch."""
    return lambda batch: Passes(forwards, input_gradients, backwards)


@dataclass(frozen=True)
class Expected:
    """What the contract tests hold a method to.

    Attributes:
        passes: cost of one update, given the index of the batch in its epoch, as counted at the network's first
            convolution: forwards, input gradients without weight gradients, backwards with weight gradients; a
            double backward is a backward.
        double_backwards: how many of the backwards go through an input gradient; each runs the network's
            convolutions forwards once more.
        settings: of the method in these tests; small networks, short periods.
        radius: largest training perturbation over epsilon.
        boxed: whether x + delta stays in [0, 1].
        split_invariant: whether two processes with half the batch each must make the update of one with all of it:
            no random numbers, and nothing but the network's gradient depends on who shares a batch.
    """

    passes: Callable[[int], Passes]
    double_backwards: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    radius: float = 1.0
    boxed: bool = True
    split_invariant: bool = False


EVERY = 3  # period, in batches, of what methods do now and then
STEPS = {"steps": 2}  # of the multi-step methods that vary PGD-AT, which keeps its ten
GENERATOR = {"generator_every": EVERY, "generator_width": 8}
GATE_OPEN = (-3, 5)  # a segment of the run in whose middle the tests' two epochs lie


def now_and_then(rare: Passes, ordinary: Passes) -> Callable[[int], Passes]:
    """``rare`` on every third batch of an epoch, from the first."""
    return lambda batch: rare if batch % EVERY == 0 else ordinary


EXPECTED = {
    "atas": Expected(always(2, 1, 1), settings={"warmup_epochs": 1, "reset_every": 2}),
    "awp": Expected(always(4, 2, 2), settings={"method_args": STEPS}),
    "elle": Expected(always(3, 1, 2), boxed=False),
    "elle-a": Expected(always(3, 1, 2), boxed=False),
    "fast-bat": Expected(always(3, 3, 2), double_backwards=1),
    "fgsm": Expected(always(2, 1, 1), split_invariant=True),
    "fgsm-bp": Expected(always(2, 1, 2)),
    "fgsm-ckpt": Expected(always(4, 1, 1)),
    "fgsm-cuap": Expected(always(2, 1, 2)),
    "fgsm-ep": Expected(always(2, 1, 2)),
    "fgsm-fuap": Expected(always(3, 1, 2)),
    "fgsm-ga": Expected(always(3, 2, 2), double_backwards=1),
    "fgsm-law": Expected(always(3, 1, 2), settings={"cutout_size": 0}),
    "fgsm-mep": Expected(always(2, 1, 2)),
    "fgsm-pco": Expected(always(3, 1, 3), radius=1.5, boxed=False),
    "fgsm-rs": Expected(always(2, 1, 1)),
    "fgsm-sdi": Expected(now_and_then(Passes(5, 4, 1), Passes(3, 2, 1)), settings=GENERATOR, boxed=False),
    "fgsm-uap": Expected(always(2, 1, 2)),
    "free": Expected(always(1, 0, 1), settings={"replays": 3}),
    "gat": Expected(always(3, 1, 2)),
    "liet": Expected(now_and_then(Passes(3, 2, 2), Passes(2, 1, 2)), settings={"template_every": EVERY}),
    "mart": Expected(always(4, 2, 2), settings=STEPS),
    "mep-cs": Expected(always(3, 1, 2), settings={"segments": GATE_OPEN}),
    "multi-grad": Expected(always(4, 3, 1)),
    "n-aaer": Expected(always(2, 1, 1), radius=3.0),
    "n-fgsm": Expected(always(2, 1, 1), radius=3.0),
    "nuat": Expected(always(3, 1, 2)),
    "pgd-at": Expected(always(11, 10, 1)),
    "pgd-at-awp": Expected(always(4, 2, 2), settings=STEPS),
    "rs-aaer": Expected(always(2, 1, 1)),
    "rs-cs": Expected(always(2, 1, 2), settings={"segments": GATE_OPEN}, radius=2.0),
    "sdi-liet": Expected(now_and_then(Passes(5, 4, 2), Passes(3, 2, 2)), settings=GENERATOR, boxed=False),
    "sdi-memory": Expected(now_and_then(Passes(4, 3, 1), Passes(2, 1, 1)), settings=GENERATOR, boxed=False),
    "sdi-pgi": Expected(now_and_then(Passes(5, 4, 2), Passes(3, 2, 2)), settings=GENERATOR, boxed=False),
    "sdi-through": Expected(now_and_then(Passes(5, 4, 1), Passes(3, 2, 1)), settings=GENERATOR, boxed=False),
    "sora": Expected(always(2, 1, 1), radius=3.0),
    "ssat": Expected(always(4, 1, 1)),
    "standard": Expected(always(1, 0, 1), radius=0.0, split_invariant=True),
    "tdat": Expected(always(2, 1, 2)),
    "trades": Expected(always(5, 2, 2), settings=STEPS),
    "trades-awp": Expected(always(7, 2, 4), settings=STEPS),
    "zero-grad": Expected(always(2, 1, 1)),
}
