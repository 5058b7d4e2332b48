"""Single-step training with a Lipschitz term on outputs and features, and weights averaged when it matters."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import GraphKey, Loss, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Bernoulli
from headstart.parts.losses import cross_entropy, smoothing_of

Reference = Literal["clean", "initial"]
# lambda, true-class weight, threshold of the weight average; of CIFAR-10, CIFAR-100 and Tiny-ImageNet
PUBLISHED = {10: (12.0, 0.7, 0.82), 100: (42.0, 0.5, 0.55), 200: (38.0, 0.3, 0.55)}


class FeatureStep(SignSteps):
    """A sign step that leaves the penultimate features at its start as the note "features0"."""

    def __init__(self, relative_alpha: float, *, softmax_twice: bool) -> None:
        super().__init__(relative_alpha)
        self.softmax_twice = softmax_twice

    def forward(self, target: Target, step: Step) -> Tensor | None:
        delta = super().forward(target, step)
        assert target.features is not None
        step.notes["features0"] = target.features
        return delta

    def score(self, step: Step, logits: Tensor) -> Tensor:
        return super().score(step, logits.softmax(1) if self.softmax_twice else logits)


class Lipschitz(Loss):
    """CE_s(z, y) + lambda * (MSE(P, P0) + MSE(Q, Q0)) / (MSE(x + delta, x0) + 1/8), all points differentiated.

    P and Q are the softmax of the logits z and of the penultimate features at x + delta; P0 and Q0 those at x0, the
    clean image or x + delta0.
    """

    def __init__(self, reference: Reference, weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.needs = frozenset({"logits0"} if reference == "initial" else ())
        self.reference, self.weight, self.label_smoothing = reference, weight, label_smoothing

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        assert step.delta is not None
        assert step.delta0 is not None
        q, moved = target.features, step.delta
        if self.reference == "clean":
            z0 = step.clean = target(step.x)
            q0 = target.features
        else:
            assert step.logits0 is not None
            z0, q0, moved = step.logits0, step.notes["features0"], step.delta - step.delta0
        assert q is not None
        assert q0 is not None
        change = softmax_mse(step.logits, z0) + softmax_mse(q.float(), q0.float())
        loss = cross_entropy(step.logits, step.y, self.label_smoothing)
        return loss + self.weight * change / (moved.square().mean() + 0.125)


def softmax_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the softmax over the second axis."""
    return F.mse_loss(a.softmax(1), b.softmax(1))


def cutout(x: Tensor, size: int) -> Tensor:
    """Images with one square of ``size`` pixels set to 0, its centre uniform over the image (DeVries and Taylor)."""

    def inside(length: int) -> Tensor:
        centre = torch.randint(length, (len(x), 1), device=x.device)
        offset = torch.arange(length, device=x.device) - centre
        return (offset >= -(size // 2)) & (offset < size // 2)

    hole = inside(x.shape[2])[:, None, :, None] & inside(x.shape[3])[:, None, None, :]
    return x.masked_fill(hole, 0.0)


class LAW(Method):
    """The composition below, on images with a cutout, and its rule for the weight average."""

    def __init__(self, ascent: FeatureStep, loss: Lipschitz, *, threshold: float, cutout_size: int) -> None:
        super().__init__(Bernoulli(0.5), ascent, loss)
        self.reference, self.threshold, self.cutout_size = loss.reference, threshold, cutout_size

    def perturb(self, target: Target, step: Step) -> None:
        target.record_features()
        if self.cutout_size:
            step.x = cutout(step.x, self.cutout_size)
        super().perturb(target, step)

    def graph_key(self, step: Step) -> GraphKey:
        return ()  # neither its parts nor the cutout ask for the time

    def averages(self, step: Step) -> Tensor:
        """Accuracy at x + delta below ``threshold`` times that at the reference, for which one sample more counts
        as correct if it is x + delta0.
        """
        reference, extra = (step.clean, 0) if self.reference == "clean" else (step.logits0, 1)
        assert step.logits is not None
        assert reference is not None
        correct = distributed.sum_(torch.stack([(z.argmax(1) == step.y).sum() for z in (step.logits, reference)]))
        return correct[0] < self.threshold * (correct[1] + extra)


@register("fgsm-law", source="Jia et al., LAW, 2023", passes="3F 1Bx 2B; 2F where the reference is the start")
def build(
    info: TaskInfo,
    weight: float | None = None,
    relative_alpha: float = 1.0,
    label_smoothing: float | None = None,
    reference: Reference | None = None,
    threshold: float | None = None,
    cutout_size: int | None = None,
    softmax_twice: bool = False,
) -> Method:
    """FGSM-LAW: a sign step from small corners, with outputs and features that may change little with the image.

    delta0 = box(+-epsilon / 2 at random); delta = P(delta0 + alpha * sign grad CE(f(x + delta0), y)); loss as in
    Lipschitz, on images with a cutout. If the recipe averages weights (published decays are 0.999, at a hundred
    classes 0.9998), only those updates enter whose accuracy at x + delta is low against the reference's.

    Args:
        weight: lambda; None is the published 12, 42 or 38 at 10, 100 or 200 classes.
        label_smoothing: of the loss; None is the published true-class weight of 0.7, 0.5 or 0.3.
        reference: what x + delta is compared with. The scripts disagree: "clean", a pass more, at ten classes and
            "initial", x + delta0, at more is the default.
        threshold: of the weight average; None is the published 0.82, or 0.55 above ten classes.
        cutout_size: side of the hole in pixels, 0 for none; None is the published 4, or 6 from 64 pixels on.
        softmax_twice: ascend the cross-entropy of the softmax, as all the scripts do, instead of the logits.
    """
    known = PUBLISHED.get(info.classes, PUBLISHED[10] if info.classes < 55 else PUBLISHED[100])
    if reference is None:
        reference = "clean" if info.classes <= 10 else "initial"
    smoothing = smoothing_of(known[1], info.classes) if label_smoothing is None else label_smoothing
    return LAW(
        FeatureStep(relative_alpha, softmax_twice=softmax_twice),
        Lipschitz(reference, known[0] if weight is None else weight, smoothing),
        threshold=known[2] if threshold is None else threshold,
        cutout_size=(6 if info.image_shape[1] >= 64 else 4) if cutout_size is None else cutout_size,
    )
