"""Adversarial weight perturbation on top of other methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods import pgd_at, trades
from headstart.methods.registry import ANY_NORM, build_method, register

SOURCE = "Wu, Xia, Wang, NeurIPS 2020"


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
        SettingError: the method has an update of its own instead.
    """

    def __init__(self, method: Method, gamma: float, warmup_epochs: int = 0) -> None:
        if type(method) is not Method:
            raise SettingError(
                f"{type(method).__name__} has an update of its own, weights cannot be perturbed around it"
            )
        super().__init__(
            method.init, method.ascent, method.loss, replays=method.replays, adversarial=method.adversarial
        )
        self.gamma, self.warmup_epochs = gamma, warmup_epochs
        self._perturbed: tuple[list[Tensor], list[Tensor]] = [], []

    def descend(self, target: Target, step: Step) -> Tensor:
        if step.clock.epoch < self.warmup_epochs:
            return super().descend(target, step)
        if step.delta is not None and step.delta.requires_grad:
            raise SettingError("weights cannot be perturbed around a method whose perturbation is differentiated too")
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
            assert step.x0 is not None
            step.x0 = step.x0.detach().requires_grad_()
            step.logits0 = target(step.x0)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        weights, v = self._perturbed
        if weights:
            torch._foreach_sub_(weights, v)
        self._perturbed = [], []
        super().observe(step)


@register(
    "awp",
    source=SOURCE,
    passes="(T+2)F TBx 2B, T = steps (10) of pgd-at; of another method its own, those of its loss twice",
    norms=ANY_NORM,
    same_as="pgd-at-awp",
)
def build(
    info: TaskInfo,
    method: str = "pgd-at",
    gamma: float = 0.01,
    warmup_epochs: int = 0,
    method_args: dict[str, Any] | None = None,
) -> Method:
    """AWP: any method by name, with its loss and gradient taken at weights perturbed to raise the loss.

    v_l = gamma * ||w_l|| / ||g_l|| * g_l for every weight tensor of more than one dimension, g the gradient of the
    method's loss; the optimiser steps from w + v with the gradient there, then v is taken off again. This is the
    authors' code; toolkits that scale g by one ratio over all parameters implement another method.

    Args:
        method: name of the method that finds the perturbation and has the loss.
        gamma: size of the weight perturbation relative to the weights.
        warmup_epochs: first epoch, from 0, in which weights are perturbed.
        method_args: settings of the method.
    """
    return AdversarialWeights(build_method(method, info, method_args), gamma, warmup_epochs)


@register("pgd-at-awp", source=SOURCE, passes="(T+2)F TBx 2B, T = steps (10)", norms=ANY_NORM, base=pgd_at.build)
def build_pgd_at(info: TaskInfo, gamma: float = 0.01, warmup_epochs: int = 0, **pgd: Any) -> Method:
    """PGD-AT with AWP: the settings of both, as the authors published them."""
    return AdversarialWeights(pgd_at.build(info, **pgd), gamma, warmup_epochs)


@register("trades-awp", source=SOURCE, passes="(T+5)F TBx 4B, T = steps (10)", norms=ANY_NORM, base=trades.build)
def build_trades(
    info: TaskInfo,
    gamma: float = 0.005,
    warmup_epochs: int | None = None,
    relative_alpha: float = 0.25,
    **others: Any,
) -> Method:
    """TRADES with AWP: the settings of both, as the AWP authors published them (steps of 2/255 at 8/255).

    Args:
        warmup_epochs: None takes the published 10, or a tenth of shorter runs.
    """
    if warmup_epochs is None:
        warmup_epochs = min(10, info.epochs // 10)
    method = trades.build(info, relative_alpha=relative_alpha, **others)
    return AdversarialWeights(method, gamma, warmup_epochs)
