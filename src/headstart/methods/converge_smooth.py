"""Single-step training that keeps the loss on benign data from changing fast between epochs."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import GraphKey, Loss, Method, TaskInfo
from headstart.core.step import Clock, Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import cross_entropy, smoothing_of
from headstart.parts.memory import MomentumPrior, published_reset

SOURCE = "Zhao, Zhang, Kong, Yin, ICCV 2023"


class ConvergenceGate(Loss):
    """CE_s(f(x + delta), y) + w * s * l, l = CE_s of the benign logits, where l strays from the last epoch's mean.

    In epoch e, m_e being the sample-weighted mean of l over it: s = sign(l - m_{e-1}) if |l - m_{e-1}| > gamma_e,
    else 0, with gamma_e = min(max(gamma / ratio, m_{e-1} - m_{e-2}), gamma); m_{-1} = 0. l and m are those of all
    processes. The gate is closed in the first two and the last two epochs of every segment of the run.

    Args:
        benign: "clean" for the logits at x, "logits0" for those at x + delta0.
        segments: epochs at which a segment begins, then the last epoch; None for the published drops of the learning
            rate, 100/110 and 105/110 of the run.
    """

    def __init__(
        self,
        info: TaskInfo,
        benign: str,
        *,
        gamma: float,
        ratio: float,
        weight: float,
        label_smoothing: float | None,
        segments: list[int] | None,
    ) -> None:
        super().__init__()
        self.benign, self.needs = benign, frozenset({benign})
        self.gamma, self.ratio, self.weight = gamma, ratio, weight
        self.label_smoothing = smoothing_of(0.6, info.classes) if label_smoothing is None else label_smoothing
        self.segments = segments or [0, round(info.epochs * 100 / 110), round(info.epochs * 105 / 110), info.epochs]
        self.sums: Tensor
        self.means: Tensor
        self.register_buffer("sums", torch.zeros(2))  # of l over this epoch's samples, and their number
        self.register_buffer("means", torch.zeros(2))  # m_{e-1}, m_{e-2}

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        if self.turns(step.clock):
            self.means.copy_(torch.stack([self.sums[0] / self.sums[1], self.means[0]]))
            self.sums.zero_()
        benign = cross_entropy(getattr(step, self.benign), step.y, self.label_smoothing)
        n = len(step.y)
        batch = distributed.sum_(torch.stack([n * benign.detach(), benign.new_full((), n)]))
        self.sums += batch
        loss = cross_entropy(step.logits, step.y, self.label_smoothing)
        if not self.open(step.clock):
            return loss
        change = batch[0] / batch[1] - self.means[0]
        threshold = (self.means[0] - self.means[1]).clamp_min(self.gamma / self.ratio).clamp_max(self.gamma)
        return loss + self.weight * change.sign().where(change.abs() > threshold, 0.0) * benign

    def graph_key(self, step: Step) -> GraphKey:
        return self.turns(step.clock), self.open(step.clock)

    def turns(self, clock: Clock) -> bool:
        """Whether an epoch ends here whose mean is to be taken."""
        return clock.batch == 0 and clock.epoch > 0

    def open(self, clock: Clock) -> bool:
        """Whether the epoch lies inside a segment, two epochs from its ends."""
        ends = zip(self.segments, self.segments[1:], strict=False)
        return any(start + 1 < clock.epoch < end - 1 for start, end in ends)


@register("mep-cs", source=SOURCE, passes="3F 1Bx 2B + two per-sample memories")
def mep_cs(
    info: TaskInfo,
    gamma: float = 0.03,
    ratio: float = 1.0,
    weight: float = 1.0,
    decay: float = 0.3,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    segments: list[int] | None = None,
    reset_every: int | None = None,
    compact: bool = True,
) -> Method:
    """MEP-CS: FGSM-MEP's perturbations, with the clean loss held near the last epoch's instead of paired logits.

    delta0 and delta as in fgsm-mep; loss as in ConvergenceGate with the clean logits. Smoothing, once, of ascent and
    losses; FastAT Benchmark smooths twice. The code's optional alignment terms, off as published, are left out.

    Args:
        gamma, ratio: largest tolerated change of the loss in nats, and that over the smallest.
        weight: w.
        label_smoothing: None is the published true-class weight of 0.6.
    """
    loss = ConvergenceGate(
        info, "clean", gamma=gamma, ratio=ratio, weight=weight, label_smoothing=label_smoothing, segments=segments
    )
    init = MomentumPrior(
        info,
        decay=decay,
        relative_alpha=relative_alpha,
        reset_every=published_reset(info) if reset_every is None else reset_every,
        compact=compact,
    )
    return Method(init, SignSteps(relative_alpha, label_smoothing=loss.label_smoothing), loss)


@register("rs-cs", source=SOURCE, passes="2F 1Bx 2B")
def rs_cs(
    info: TaskInfo,
    gamma: float = 0.03,
    ratio: float = 1.0,
    weight: float = 1.0,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    segments: list[int] | None = None,
) -> Method:
    """RS-CS: a sign step from a uniform start, not projected, with the loss at that start held near the last epoch's.

    delta0 = box(U(epsilon)); delta = box(delta0 + alpha * sign grad CE(f(x + delta0), y)), up to 2 epsilon; loss as
    in ConvergenceGate with the logits at x + delta0, which is what the code's "benign" pass computes a second time.

    Args:
        gamma, ratio, weight, label_smoothing: as in mep-cs; the ascended cross-entropy is plain.
    """
    loss = ConvergenceGate(
        info, "logits0", gamma=gamma, ratio=ratio, weight=weight, label_smoothing=label_smoothing, segments=segments
    )
    return Method(Uniform(), SignSteps(relative_alpha, project=False), loss)
