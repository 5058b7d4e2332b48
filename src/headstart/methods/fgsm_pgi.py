"""Single-step training from perturbations of the past: of the last batch, of the last epoch, or with momentum."""

from __future__ import annotations

from headstart.core.method import Init, Method, TaskInfo
from headstart.methods.registry import register
from headstart.parts.losses import smoothing_of
from headstart.parts.memory import BatchMemory, MomentumPrior, Remembered, perturbation_memory, published_reset
from headstart.parts.pairing import paired

SOURCE = "Jia et al., ECCV 2022"


def prior_guided(
    info: TaskInfo, init: Init, weight: float, relative_alpha: float, label_smoothing: float | None, box_start: bool
) -> Method:
    """Step and loss common to BP, EP and MEP; a smoothing of None is the published true-class weight of 0.6."""
    smoothing = smoothing_of(0.6, info.classes) if label_smoothing is None else label_smoothing
    return paired(init, weight, relative_alpha, smoothing, box_start=box_start)


@register("fgsm-bp", source=SOURCE, passes="2F 1Bx 2B")
def bp(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    box_start: bool = False,
) -> Method:
    """FGSM-BP: a sign step from the perturbation of the batch before, and logits held together.

    delta = P(delta0 + alpha * sign grad CE_s(f(x + delta0), y)), which is the next batch's delta0; loss
    CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)) on logits, both differentiated. The public code
    has MEP alone; this follows the paper's description. The first batch starts from random corners +-epsilon.

    Args:
        weight: lambda.
        label_smoothing: of loss and ascent; None is the published true-class weight of 0.6.
        box_start: take the gradient, and the logits at the start, at the image nearest to x + delta0, as FastAT
            Benchmark does; the step and the next start still go from delta0 itself. The public code does not.
    """
    return prior_guided(info, Remembered(BatchMemory(info)), weight, relative_alpha, label_smoothing, box_start)


@register("fgsm-ep", source=SOURCE, passes="2F 1Bx 2B + per-sample memory")
def ep(
    info: TaskInfo,
    weight: float = 10.0,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    reset_every: int | None = None,
    compact: bool = True,
    aligned: bool = False,
    box_start: bool = False,
) -> Method:
    """FGSM-EP: a sign step from the sample's perturbation of the last epoch, and logits held together.

    As fgsm-bp, with delta0_i = the delta of sample i an epoch ago, and corners +-epsilon every R epochs.

    Args:
        reset_every: R; None is the published 40, 10 above ten classes.
        compact, aligned: as in fgsm-mep.
    """
    memory = perturbation_memory(info, compact, aligned)
    reset_every = published_reset(info) if reset_every is None else reset_every
    init = Remembered(memory, reset_every=reset_every)
    return prior_guided(info, init, weight, relative_alpha, label_smoothing, box_start)


@register("fgsm-mep", source=SOURCE, passes="2F 1Bx 2B + two per-sample memories")
def mep(
    info: TaskInfo,
    weight: float = 10.0,
    decay: float = 0.3,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    reset_every: int | None = None,
    compact: bool = True,
    aligned: bool = False,
    box_start: bool = False,
) -> Method:
    """FGSM-MEP (FGSM-PGI): a sign step from the sample's momentum-driven perturbation, and logits held together.

    g = grad CE_s(f(x + delta0), y); delta = P(delta0 + alpha * sign g); v_i <- g_i / ||g||_1 + mu v_i; next delta0 =
    P(delta0 + alpha * sign v_i); loss CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)). Every R
    epochs delta0 is drawn from the corners +-epsilon and v = 0. v takes the gradient itself, as the code does.

    Args:
        weight: lambda.
        decay: mu.
        label_smoothing: of loss and ascent; None is the published true-class weight of 0.6.
        reset_every: R; None is the published 40, 10 above ten classes.
        compact: keep delta0 as int8 (within epsilon / 254) and v as bfloat16; otherwise both in fp32, as published.
        aligned: undo crop and flip when storing and redo them when reading. The published code does neither, so that
            a sample's perturbation meets another crop of it: another method.
        box_start: take the gradient, and the logits at the start, at the image nearest to x + delta0, as FastAT
            Benchmark does; the step and the next start still go from delta0 itself. The public code does not.
    """
    init = MomentumPrior(
        info,
        decay=decay,
        relative_alpha=relative_alpha,
        reset_every=published_reset(info) if reset_every is None else reset_every,
        compact=compact,
        aligned=aligned,
    )
    return prior_guided(info, init, weight, relative_alpha, label_smoothing, box_start)
