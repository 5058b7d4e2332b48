"""What one weight update knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from headstart.core.threat import ThreatModel


@dataclass(frozen=True)
class Clock:
    """Where training stands; all counts start at 0.

    Attributes:
        update: weight updates done so far, counting every replay.
        updates: weight updates of the whole run.
        epoch: passes over the training set completed.
        epochs: passes over the training set of the whole run.
        batch: index of the batch inside its epoch.
    """

    update: int = 0
    updates: int = 1
    epoch: int = 0
    epochs: int = 1
    batch: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run's updates already done, in [0, 1)."""
        return self.update / self.updates


@dataclass(slots=True)
class Step:
    """One update: the batch, the threat model in force, and what init, ascent and descent leave for the loss.

    Attributes:
        x: images (B, C, H, W), fp32 in [0, 1], after augmentation.
        y: labels (B,), int64.
        threat: the threat model of this update; its epsilon may rise over the run, and is a tensor in a recording.
        clock: where training stands.
        index: row of each sample in the training set (B,), int64, stable over epochs; None outside the engine.
        geometry: crop offsets and flip of each sample (B, 3), int64: top, left, flipped; None if not augmented.
        delta0: initial perturbation, or None for zero.
        grad0, logits0: gradient with respect to the perturbation, and logits, where the ascent begins, at x + delta0.
        x0: the images there, (B, C, H, W), where the graph of logits0 is kept. They are its leaf: after the backward of
            the weight update ``x0.grad`` is the gradient of the loss through logits0.
        clean: logits at x, when a part needs them.
        delta: perturbation after the ascent, or None for none.
        logits: logits at x + delta, with the graph of the weight update.
        needs: what the method asks of its ascent besides a perturbation, see Part.
        notes: what one part of a method leaves for another, by a name of their own.
    """

    x: Tensor
    y: Tensor
    threat: ThreatModel
    clock: Clock
    index: Tensor | None = None
    geometry: Tensor | None = None
    delta0: Tensor | None = None
    grad0: Tensor | None = None
    logits0: Tensor | None = None
    x0: Tensor | None = None
    clean: Tensor | None = None
    delta: Tensor | None = None
    logits: Tensor | None = None
    needs: frozenset[str] = frozenset()
    notes: dict[str, Tensor] = field(default_factory=dict)
