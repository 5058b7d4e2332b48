"""Adversarial weight perturbation around any method made of parts."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Method
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import UserError


class AdversarialWeights(Method):
    """``method``, with its loss and gradient taken at weights that raise the loss.

    With g_l the gradient of the loss and v_l = gamma * ||w_l|| / ||g_l|| * g_l for every weight tensor l of more
    than one dimension: w <- w + v before the descent, w <- optimiser's step from there, then w <- w - v. Each v_l
    has the size gamma relative to its tensor. g needs no copy of the network: it is taken in place, with batch
    statistics that leave the running ones alone. The perturbation of the images is found before, at w.

    Args:
        method: any method composed of init, ascent and loss.
        gamma: size of the weight perturbation relative to the weights.
        warmup_epochs: first epoch, from 0, in which weights are perturbed.

    Raises:
        UserError: the method has an update of its own instead.
    """

    def __init__(self, method: Method, gamma: float, warmup_epochs: int = 0) -> None:
        if type(method) is not Method:
            raise UserError(f"{type(method).__name__} has an update of its own, weights cannot be perturbed around it")
        super().__init__(
            method.init, method.ascent, method.loss, replays=method.replays, adversarial=method.adversarial
        )
        self.gamma, self.warmup_epochs = gamma, warmup_epochs
        self._perturbed: tuple[list[Tensor], list[Tensor]] = [], []

    def descend(self, target: Target, step: Step) -> Tensor:
        if step.clock.epoch < self.warmup_epochs:
            return super().descend(target, step)
        if step.delta is not None and step.delta.requires_grad:
            raise UserError("weights cannot be perturbed around a method whose perturbation is differentiated too")
        with target.rehearsal():
            loss = super().descend(target, step)
        weights: list[Tensor] = [p for p in target.module.parameters() if p.requires_grad and p.ndim > 1]
        v = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        distributed.mean_(v)
        self._perturb(weights, list(v))
        self._repeat_passes(target, step)
        return super().descend(target, step)

    @torch.no_grad()
    def _perturb(self, weights: list[Tensor], v: list[Tensor]) -> None:
        norms = torch._foreach_add(torch._foreach_norm(v), 1e-20)
        torch._foreach_mul_(v, torch._foreach_div(torch._foreach_norm(weights), norms))
        torch._foreach_mul_(v, self.gamma)
        torch._foreach_add_(weights, v)
        self._perturbed = weights, v

    def _repeat_passes(self, target: Target, step: Step) -> None:
        """Passes before the descent that the loss differentiates, now at the perturbed weights."""
        if "clean" in self.loss.needs:
            step.clean = target(step.x)
        if "logits0" in self.loss.needs:
            step.logits0 = target(step.x if step.delta0 is None else step.x + step.delta0)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        weights, v = self._perturbed
        if weights:
            torch._foreach_sub_(weights, v)
        self._perturbed = [], []
        super().observe(step)
