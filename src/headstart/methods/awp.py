"""Adversarial weight perturbation on top of other methods."""

from __future__ import annotations

from typing import Any

from headstart.core.method import Method, TaskInfo
from headstart.methods import pgd_at, trades
from headstart.methods.registry import ANY_NORM, build_method, register
from headstart.parts.awp import AdversarialWeights

SOURCE = "Wu, Xia, Wang, NeurIPS 2020"


@register("awp", source=SOURCE, passes="those of the method + 1F 1B", norms=ANY_NORM, same_as="pgd-at-awp")
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
