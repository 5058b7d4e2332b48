"""What a run does when its training breaks: go on, stop, or go back and take more care."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from headstart.attacks.collapse import COLLAPSE_RATIO, collapsed
from headstart.core import Clock, distributed
from headstart.recipes.recipe import Recipe
from headstart.training.state import Stateful, state_of

# A state is worth going back to while PGD keeps this share of the FGSM accuracy. Between that and a collapse nothing
# is kept: a network on its way down must not become the one to return to.
SOUND_RATIO = 1 / 2
# Radius over epsilon of the uniform noise on the images after the first and the second collapse. The first is that of
# N-FGSM (de Jorge et al., NeurIPS 2022), laid around whatever the method does: it costs no pass.
NOISE = (2.0, 3.0)
SCHEDULED = ("lr", "momentum", "betas")  # of an optimiser's groups: they follow the clock, not the weights
CLIP = 1.0  # largest gradient norm after losses or weights that were not finite
SETTLING = 2  # looks after going back that are not judged: the accuracies of a changed training dip first


class Guard:
    """Judges the live network by what was measured of it, and keeps the last sound state to go back to.

    Going back returns what was learned to that state. Clock, learning rate and order of the data go on, so that a
    run takes as many updates as it would have taken without.

    Args:
        learned: what goes back: network, optimiser, method, and average if there is one.
        adversarial: whether the network is trained for a robustness that can collapse.
    """

    def __init__(self, recipe: Recipe, learned: Mapping[str, Stateful], *, adversarial: bool = True) -> None:
        self.reaction, self._learned, self._adversarial = recipe.on_collapse, learned, adversarial
        self.clip = recipe.clip_gradient
        """Largest gradient norm of an update now; 0 for none."""
        self.collapses = 0
        self.best_clean = 0.0
        self.settling = 0
        self.told = False
        self.sound: dict[str, Any] | None = None
        self.sound_update = 0
        """How many updates had been made when the sound state was kept."""

    @property
    def noise(self) -> float:
        """Radius over epsilon of the noise on the images now."""
        return NOISE[self.collapses - 1] if self.collapses else 0.0

    def fault(self, measured: dict[str, float]) -> str | None:
        """What is wrong with a network that was measured like this; None for nothing."""
        if self._adversarial and collapsed(measured):
            return "catastrophic overfitting"
        if measured["clean"] < COLLAPSE_RATIO * self.best_clean:
            return f"the network broke down, clean accuracy {measured['clean']:.1%} after {self.best_clean:.1%},"
        return None

    def judge(self, measured: dict[str, float], clock: Clock) -> str | None:
        """A fault that asks for a reaction, in words with numbers; otherwise None, and a sound state is kept.

        Where the run goes on regardless, only the first fault is told.
        """
        if self.settling:
            self.settling -= 1
            return None
        self.best_clean = max(self.best_clean, measured["clean"])
        fault = self.fault(measured)
        if fault is None:
            sound = not self._adversarial or measured["pgd"] >= SOUND_RATIO * measured["fgsm"]
            if self.reaction == "rollback" and sound:
                # A copy, since state_dict returns the live tensors.
                self.sound = copy.deepcopy(state_of(self._learned))
                self.sound_update = clock.update
            return None
        if self.reaction == "warn" and self.told:
            return None
        self.told = True
        accuracies = f"PGD accuracy {measured['pgd']:.1%}, FGSM accuracy {measured['fgsm']:.1%}"
        return f"{fault} at update {clock.update} in epoch {clock.epoch}: {accuracies}"

    def go_back(self, finite: bool) -> str | None:
        """Return to the last sound state and take the next measure, against a collapse or against infinite numbers.

        Returns:
            The measure in words; None, with nothing changed, if there is no state to return to or no measure left.
        """
        if self.sound is None or (self.collapses == len(NOISE) if finite else 0 < self.clip <= CLIP):
            return None
        now = self._learned["optimizer"].state_dict()["param_groups"]
        learned = copy.deepcopy(self.sound)  # an optimiser keeps the tensors that it is given
        for group, scheduled in zip(learned["optimizer"]["param_groups"], now, strict=True):
            group |= {key: scheduled[key] for key in SCHEDULED if key in scheduled}
        for name, part in self._learned.items():
            part.load_state_dict(learned[name])
        self.settling = SETTLING
        if not finite:
            self.clip = CLIP
            return f"gradients clipped to norm {CLIP:g}"
        self.collapses += 1
        return f"uniform noise of {self.noise:g} epsilon on the images"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the reaction, which may change when a run is resumed."""
        return {name: value for name, value in vars(self).items() if name != "reaction" and name[0] != "_"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        vars(self).update(state)


def not_finite(groups: Mapping[str, Iterable[Tensor]]) -> str | None:
    """The first group with an infinite or NaN number on some process; waits for the device."""
    broken = []
    for tensors in groups.values():
        finite = [t.isfinite().all() for t in tensors if t.is_floating_point()]
        broken.append(~torch.stack(finite).all() if finite else torch.tensor(False))
    device = broken[0].device
    found = distributed.sum_(torch.stack([b.to(device).float() for b in broken])).tolist()
    return next((name for name, count in zip(groups, found, strict=True) if count), None)
