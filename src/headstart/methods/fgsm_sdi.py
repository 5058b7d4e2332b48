"""FGSM with a learned, sample-dependent start: the method of the TIP paper, and it recombined with others."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F

from headstart.core.method import Method, TaskInfo
from headstart.core.target import BatchNormMode
from headstart.methods import liet
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.generator import Conditioning, GeneratorInit, GeneratorSchedule
from headstart.parts.losses import Criterion, CrossEntropy, cross_entropy, jensen_shannon, smoothing_of
from headstart.parts.pairing import LogitPairing


@register(
    "fgsm-sdi", source="Jia et al., IEEE TIP 2022", passes="(3+2/k)F (2+2/k)Bx 1B + generator, k = generator_every (20)"
)
def build(
    info: TaskInfo,
    relative_alpha: float = 0.5,
    label_smoothing: float | None = None,
    box: bool = False,
    conditioning: Conditioning = "image+gradient",
    generator_width: int = 64,
    generator_every: int | None = None,
    generator_lr: float = 1e-3,
    generator_schedule: GeneratorSchedule = "constant",
    straight_through: bool = False,
    batch_norm: BatchNormMode | None = None,
    published: bool = False,
) -> Method:
    """FGSM-SDI: one sign step from a start proposed by a jointly trained generator.

    delta0 = epsilon * tanh(G(x, sign grad CE(f(x), y))); delta = P(delta0 + alpha * sign grad CE(f(x + delta0), y));
    f descends CE_s(f(x + delta), y), G ascends it every k batches.

    Args:
        relative_alpha: step size over epsilon; 1 in the paper. Below that the generator learns at more pixels, see
            GeneratorInit, and the network gets more robust: docs/inspect.md.
        label_smoothing: None is the published true-class weight of 0.5.
        box: clip the training perturbation to the image box. The published code never does, and so trains on
            points outside the threat model.
        conditioning: what the generator sees. "image+memory" saves the clean-gradient pass (the method
            sdi-memory); so do the ablations "image" and "noise".
        generator_width: 64 in the paper; a small target network is outweighed by that, take 16.
        generator_every: k; None takes the published 20, or less in runs so short that the generator would get
            fewer than 200 updates.
        generator_schedule: "constant" is what the published code does, "multi-step" what its milestones mean.
        straight_through: let the generator's gradient pass where the projection clips; our addition.
        batch_norm: mode of the target in the ascent passes; "train" in the published code. Generator updates
            differentiate through the target in training mode whatever it is.
        published: every setting here at the authors' value, whatever it is set to.
    """
    if published:  # what is not named has that default
        return build(info, relative_alpha=1.0, generator_every=20, batch_norm="train")
    smoothing = smoothing_of(0.5, info.classes) if label_smoothing is None else label_smoothing
    ascent = SignSteps(relative_alpha, box=box, batch_norm=batch_norm)
    init = GeneratorInit(
        info,
        ascent,
        label_smoothing=smoothing,
        conditioning=conditioning,
        width=generator_width,
        every=generator_every,
        lr=generator_lr,
        schedule=generator_schedule,
        straight_through=straight_through,
        batch_norm=batch_norm,
    )
    return Method(init, ascent, CrossEntropy(smoothing))


@register(
    "sdi-memory",
    source="this library, after Jia et al., IEEE TIP 2022",
    passes="(2+2/k)F (1+2/k)Bx 1B + generator, k = generator_every (20)",
    base=build,
    fixed=("conditioning", "published"),
)
def build_memory(info: TaskInfo, **sdi: Any) -> Method:
    """SDI-memory: FGSM-SDI whose generator is told the sample's last attack gradient instead of the clean one.

    delta0 = epsilon * tanh(G(x, sign g_i)), g_i = grad CE(f(x_i + delta0), y_i) at the last visit of sample i (see
    GeneratorInit); the rest as in fgsm-sdi. No pass at the clean image: the cost of FGSM-RS and the generator.
    """
    return build(info, conditioning="image+memory", **sdi)


@register(
    "sdi-through",
    source="this library, after Jia et al., IEEE TIP 2022",
    passes="(3+2/k)F (2+2/k)Bx 1B + generator, k = generator_every (20)",
    base=build,
    fixed=("straight_through", "published"),
)
def build_through(info: TaskInfo, **sdi: Any) -> Method:
    """SDI-through: FGSM-SDI whose generator also learns at pixels where the projection clips.

    In delta = P(delta0 + alpha * sign g) with alpha = epsilon the clip blocks the generator's gradient wherever its
    proposal agrees with the step. Here the gradient passes unchanged (straight through); the perturbation is that of
    fgsm-sdi.
    """
    return build(info, straight_through=True, **sdi)


def held_together(sdi: Method, divergence: Criterion, weight: float, *, ramp: bool = False) -> Method:
    """FGSM-SDI with a divergence between the logits at x + delta and x + delta0 added to its loss, as it stands."""
    assert isinstance(sdi.loss, CrossEntropy)
    criterion = partial(cross_entropy, label_smoothing=sdi.loss.label_smoothing)
    return Method(sdi.init, sdi.ascent, LogitPairing(criterion, divergence, weight, ramp=ramp))


@register(
    "sdi-pgi",
    source="this library, after Jia et al., TIP and ECCV 2022",
    passes="(3+2/k)F (2+2/k)Bx 2B + generator, k = generator_every (20)",
    base=build,
    fixed=("published",),
)
def build_pgi(info: TaskInfo, weight: float = 10.0, **sdi: Any) -> Method:
    """SDI-PGI: FGSM-SDI with the logits at start and end held together, as in FGSM-PGI.

    Init and ascent of fgsm-sdi; loss CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)) on logits,
    both differentiated. The generator goes on ascending CE_s alone. Without label smoothing or batch-norm the term
    can blow up: take a smaller lambda there. With the conditioning "image+memory" it costs what FGSM-PGI does.

    Args:
        weight: lambda; FGSM-PGI's.
    """
    return held_together(build(info, **sdi), F.mse_loss, weight)


@register(
    "sdi-liet",
    source="this library, after Jia et al. 2022 and Pan et al. 2025",
    passes="(3+2/k)F (2+2/k)Bx 2B + generator, k = generator_every (20)",
    base=build,
    fixed=("published",),
)
def build_liet(info: TaskInfo, weight: float | None = None, **sdi: Any) -> Method:
    """SDI-LIET: FGSM-SDI with the predictions at start and end held together, as in LIET.

    Init and ascent of fgsm-sdi; loss CE_s(f(x + delta), y) + lambda (e + 1) / E * JS(f(x + delta), f(x + delta0)) in
    epoch e of E, with fgsm-sdi's label smoothing. The generator goes on ascending CE_s alone. With the conditioning
    "image+memory" it costs what LIET does.

    Args:
        weight: lambda; None is LIET's.
    """
    weight = liet.published_weight(info) if weight is None else weight
    return held_together(build(info, **sdi), jensen_shannon, weight, ramp=True)
