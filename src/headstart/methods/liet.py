"""Single-step training from label templates, whose label information is then scrambled."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import GraphKey, Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import Criterion, jensen_shannon
from headstart.parts.pairing import LogitPairing


def randomly_smoothed(logits: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy with 1 - s on the true class and s over the others in random proportions, drawn at every call."""
    shares = torch.rand_like(logits).scatter(1, y[:, None], 0.0)
    shares = (label_smoothing / shares.sum(1, keepdim=True)) * shares
    return torch.nn.functional.cross_entropy(logits, shares.scatter(1, y[:, None], 1 - label_smoothing))


class LabelTemplates(Init):
    """delta0 = box(+-M(epsilon * T_y)), T_k the direction that raises the loss of a grey image with label k.

    T_k = sign grad CE_r(f(1/2), k), f in evaluation mode, taken anew every ``every`` batches. M replaces each entry
    with probability r by noise U(noise_scale * epsilon). r, uniform in ``replaced``, and the sign are drawn once a
    batch. With several processes the gradient is their mean: random smoothing makes theirs differ.
    """

    def __init__(
        self, info: TaskInfo, criterion: Criterion, *, every: int, replaced: tuple[float, float], noise_scale: float
    ) -> None:
        super().__init__()
        self.criterion, self.every, self.replaced, self.noise_scale = criterion, every, replaced, noise_scale
        self.templates: Tensor
        self.register_buffer("templates", torch.zeros(info.classes, *info.image_shape))

    def forward(self, target: Target, step: Step) -> Tensor:
        if step.clock.batch % self.every == 0:
            self.refresh(target, step)
        rate = step.x.new_empty(()).uniform_(*self.replaced)
        noise = step.threat.uniform(step.x, self.noise_scale)
        delta0 = noise.where(torch.rand_like(step.x) < rate, step.threat.epsilon * self.templates[step.y])
        sign = torch.randint(0, 2, (), device=step.x.device) * 2 - 1
        return step.threat.box(step.x, sign * delta0)

    def graph_key(self, step: Step) -> GraphKey:
        return (step.clock.batch % self.every == 0,)

    def refresh(self, target: Target, step: Step) -> None:
        labels = torch.arange(len(self.templates), device=step.y.device)
        grey = torch.full_like(self.templates, 0.5)
        grad, _ = target.ascend(grey, lambda z: self.criterion(z, labels), batch_norm="eval")
        distributed.mean_([grad])
        self.templates.copy_(step.threat.direction(grad))


class RandomlySmoothedStep(SignSteps):
    """A sign step that raises the randomly smoothed cross-entropy."""

    clock_free = True

    def score(self, step: Step, logits: Tensor) -> Tensor:
        return randomly_smoothed(logits, step.y, self.label_smoothing)


def is_large(info: TaskInfo) -> bool:
    """Whether epsilon is above 8/255, where the published settings are others."""
    return info.threat.epsilon > 8.01 / 255


def published_weight(info: TaskInfo) -> float:
    """Weight of the Jensen-Shannon term at the end of its ramp."""
    return 20.0 if is_large(info) else 200.0 if info.classes == 100 else 100.0


@register(
    "liet",
    source="Pan, Tang, Li, Yao, ICCV 2025",
    passes="(2+q/k)F (1+q/k)Bx 2B, k = template_every (20), q = classes / batch size",
)
def build(
    info: TaskInfo,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    weight: float | None = None,
    replaced: list[float] | None = None,
    template_every: int = 20,
) -> Method:
    """LIET: a sign step from a noisy class template, with predictions before and after the step held together.

    delta0 as in LabelTemplates; delta = P(delta0 + alpha * sign grad CE_r(f(x + delta0), y)); loss
    CE_r(f(x + delta), y) + lambda (e + 1) / E * JS(f(x + delta), f(x + delta0)) in epoch e of E. CE_r has 1 - s on
    the true class and s spread at random over the others. As published, above 8/255 the step is not projected, so
    its norm reaches 2 epsilon (3 with its noise, which is twice as large there).

    Args:
        label_smoothing: s. None takes the published 0.6, 0.8 at 100 classes, 0.4 above 8/255.
        weight: lambda. None takes the published 100, 200 at 100 classes, 20 above 8/255.
        replaced: range of the share of replaced entries; None takes [0.1, 0.5], [0, 1] above 8/255.
        template_every: batches between two refreshes, counted in the epoch; the paper has 10 for CIFAR-10 at 16/255.
    """
    if template_every < 1:
        raise SettingError(f"template_every is {template_every}; it must be at least 1 (the paper's is 20)")
    large = is_large(info)
    if label_smoothing is None:
        label_smoothing = 0.4 if large else 0.8 if info.classes == 100 else 0.6
    if weight is None:
        weight = published_weight(info)
    if replaced is None:
        replaced = [0.0, 1.0] if large else [0.1, 0.5]
    if len(replaced) != 2 or not 0 <= replaced[0] <= replaced[1] <= 1:
        raise SettingError(f"replaced is {replaced}; it must be two shares in order, such as [0.1, 0.5]")
    criterion = partial(randomly_smoothed, label_smoothing=label_smoothing)
    init = LabelTemplates(
        info, criterion, every=template_every, replaced=(replaced[0], replaced[1]), noise_scale=2.0 if large else 1.0
    )
    ascent = RandomlySmoothedStep(relative_alpha, project=not large, label_smoothing=label_smoothing)
    return Method(init, ascent, LogitPairing(criterion, jensen_shannon, weight, ramp=True))
