"""A method is an initialisation, an ascent and a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from headstart.core.step import Step
from headstart.core.target import Target
from headstart.core.threat import ThreatModel

GraphKey = tuple[Any, ...] | None


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of the task when it is built.

    Attributes:
        classes: number of classes K.
        image_shape: (C, H, W).
        threat: the threat model of the run, epsilon at its final value.
        samples: training samples on this process.
        batch_size: samples per update on this process.
        updates: weight updates of the whole run.
        epochs: passes over the training set of the whole run.
        features: width of the network's penultimate features, 0 if it does not offer them.
        pad: largest crop shift of the augmentation in pixels, 0 for none.
        rescaled: whether crops are also rescaled, so that a pixel has no fixed place in the image.
    """

    classes: int
    image_shape: tuple[int, int, int]
    threat: ThreatModel
    samples: int
    batch_size: int
    updates: int
    epochs: int
    features: int = 0
    pad: int = 0
    rescaled: bool = False


class Part(nn.Module):
    """A piece of a method. Being a module, its buffers, sub-networks and extra state are saved with the run.

    ``needs`` names the fields of Step that somebody else must fill in with their graph kept:
    "clean" (logits at x) and "logits0" (logits at x + delta0).
    """

    needs: frozenset[str] = frozenset()
    clock_free: bool = False
    """True in a class whose ``forward`` asks nothing but tensors, as which it may meet epsilon too. Not inherited: a
    subclass may ask more."""

    def observe(self, step: Step) -> None:
        """Called after the weight update, to move state; ``step.x`` and its perturbations are still there."""

    def graph_key(self, step: Step) -> GraphKey:
        """What the host decides in this update. Equal keys promise the same work for the device.

        An update whose parts all give a key is recorded once per key and replayed from then on (CUDA graphs); what
        ``observe`` reads of it must be on the step or in a buffer. None promises nothing.
        """
        return () if vars(type(self)).get("clock_free") else None


class Init(Part):
    """Proposes the initial perturbation delta0 (B, C, H, W), or None for zero."""

    def forward(self, target: Target, step: Step) -> Tensor | None:
        raise NotImplementedError


class Ascent(Part):
    """Turns ``step.delta0`` into the training perturbation, or None for none; fills in grad0 and logits0.

    Where "logits0" is in ``step.needs`` it keeps their graph, and fills in x0.
    """

    def forward(self, target: Target, step: Step) -> Tensor | None:
        raise NotImplementedError


class Loss(Part):
    """The scalar that the weight update descends."""

    def forward(self, target: Target, step: Step) -> Tensor:
        raise NotImplementedError


class Method(nn.Module):
    """One adversarial training method: ``loss = method(target, step)``, then backward, then ``observe``.

    A method that fits no composition may override ``forward``; it must call ``target.descend`` exactly once and
    return a scalar.

    Args:
        replays: weight updates made on every batch (Free-AT).
        adversarial: False for plain training, whose checkpoint is chosen by clean accuracy, and in which the loss of
            a robustness that nobody trains for is no collapse.
    """

    def __init__(self, init: Init, ascent: Ascent, loss: Loss, *, replays: int = 1, adversarial: bool = True) -> None:
        super().__init__()
        self.init, self.ascent, self.loss = init, ascent, loss
        self.replays, self.adversarial = replays, adversarial
        self.needs = init.needs | ascent.needs | loss.needs

    def forward(self, target: Target, step: Step) -> Tensor:
        self.perturb(target, step)
        return self.descend(target, step)

    def perturb(self, target: Target, step: Step) -> None:
        """Find the perturbation."""
        step.needs = self.needs
        if "clean" in self.needs:
            step.clean = target(step.x)
        step.delta0 = self.init(target, step)
        step.delta = self.ascent(target, step)

    def descend(self, target: Target, step: Step) -> Tensor:
        """The loss of the weight update, at x + delta."""
        step.logits = target.descend(step.x if step.delta is None else step.x + step.delta)
        loss: Tensor = self.loss(target, step)
        return loss

    def averages(self, step: Step) -> Tensor | None:
        """Whether this update enters the weight average: a boolean tensor of shape (), or None for always."""
        return None

    def graph_key(self, step: Step) -> GraphKey:
        """The keys of all parts, or None if one has none; see Part."""
        if any(getattr(type(self), name) is not getattr(Method, name) for name in ("forward", "perturb", "descend")):
            return None  # an update of its own may look at the clock
        keys = [part.graph_key(step) for part in (self.init, self.ascent, self.loss)]
        return None if None in keys else tuple(keys)

    def observe(self, step: Step) -> None:
        """Let every part move its state, after the weight update."""
        for part in (self.init, self.ascent, self.loss):
            part.observe(step)
