"""Single-step training that keeps the loss linear within the ball."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.core import distributed
from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.methods.registry import register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform, Zero
from headstart.parts.losses import CrossEntropy

PASSES = "5F 1Bx 4B; 3F and 3B of them as one pass of 3 batches"


class LinearityError(CrossEntropy):
    """CE(f(x + delta), y) + lambda * E, E = mean_i (CE_i(c) - (1 - t_i) CE_i(a) - t_i CE_i(b))^2.

    a, b = x + U(epsilon), not boxed; c = (1 - t) a + t b, t_i ~ U[0, 1]; one pass over the 3B images, all three
    differentiated. The buffer ``weight`` is lambda; E is left as the note "error", ().
    """

    clock_free = True

    def __init__(self, weight: float, label_smoothing: float) -> None:
        super().__init__(label_smoothing)
        self.weight: Tensor
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))

    def forward(self, target: Target, step: Step) -> Tensor:
        a, b = step.x + step.threat.uniform(step.x), step.x + step.threat.uniform(step.x)
        t = torch.rand(len(step.x), 1, 1, 1, device=step.x.device, dtype=step.x.dtype)
        logits = target(torch.cat([a, b, torch.lerp(a, b, t)]))
        ce_a, ce_b, ce_c = F.cross_entropy(logits, step.y.repeat(3), reduction="none").chunk(3)
        error = (ce_c - torch.lerp(ce_a, ce_b, t.flatten())).square().mean()
        step.notes["error"] = error.detach()
        return super().forward(target, step) + self.weight.to(error) * error


class AdaptiveLinearityError(LinearityError):
    """Lambda is ``largest`` after an update whose E stands out of all before it, and decays by ``decay`` otherwise.

    E stands out if it exceeds their mean by ``sensitivity`` standard deviations, and there are more than two.
    ``seen`` keeps their number, mean and sum of squared deviations (Welford's recurrence).
    """

    clock_free = True

    def __init__(self, largest: float, decay: float, sensitivity: float, label_smoothing: float) -> None:
        super().__init__(0.0, label_smoothing)
        self.largest, self.decay, self.sensitivity = largest, decay, sensitivity
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def observe(self, step: Step) -> None:
        error = step.notes["error"].double()
        distributed.mean_([error])
        n, mean, deviations = self.seen
        spread = (deviations / n.clamp_min(1)).sqrt()
        stands_out = (n > 2) & (error > mean + self.sensitivity * spread)
        self.weight.copy_(torch.where(stands_out, self.largest, self.decay * self.weight))
        moved = mean + (error - mean) / (n + 1)
        self.seen.copy_(torch.stack([n + 1, moved, deviations + (error - mean) * (error - moved)]))


def with_loss(noise_scale: float, relative_alpha: float, box: bool, loss: LinearityError) -> Method:
    """One sign step from zero, or from noise, not projected; start and end are boxed or neither is."""
    init: Init = Uniform(noise_scale, box=box) if noise_scale else Zero()
    return Method(init, SignSteps(relative_alpha, project=False, box=box), loss)


@register("elle", source="Abad Rocamora et al., ICLR 2024", passes=PASSES)
def build(
    info: TaskInfo,
    weight: float | None = None,
    noise_scale: float = 0.0,
    relative_alpha: float = 1.0,
    box: bool = False,
    label_smoothing: float = 0.0,
) -> Method:
    """ELLE: a sign step from zero, and a penalty on the distance of the loss from linear between random points.

    delta = alpha * sign grad CE(f(x), y), not clipped to the image box; loss CE(f(x + delta), y) + lambda * E, E as
    in LinearityError. Only the first term is smoothed. The published trainer calls its optimiser twice per batch;
    here it is called once. bf16 rounds each CE_i by about 1%, which puts a floor under E. FastAT Benchmark's ELLE is
    another method: ``weight=1, noise_scale=1, relative_alpha=1.25, box=True, label_smoothing=0.4``.

    Args:
        weight: lambda. None takes the authors' 1,000 up to 8/255, 5,000 up to 20/255, 10,000 above (FastAT
            Benchmark's 1 does not prevent collapse).
        noise_scale: k of a start U(k * epsilon); 2 on top of N-FGSM.
        relative_alpha: step size over epsilon.
        box: clip the noise and the step to the image box; never the two points of E.
    """
    if weight is None:
        pixels = round(255 * info.threat.epsilon, 3)
        weight = 1_000.0 if pixels <= 8 else 5_000.0 if pixels <= 20 else 10_000.0
    return with_loss(noise_scale, relative_alpha, box, LinearityError(weight, label_smoothing))


@register("elle-a", source="Abad Rocamora et al., ICLR 2024", passes=PASSES)
def build_adaptive(
    info: TaskInfo,
    weight: float = 4_000.0,
    decay: float = 0.99,
    sensitivity: float = 2.0,
    noise_scale: float = 0.0,
    relative_alpha: float = 1.0,
    box: bool = False,
    label_smoothing: float = 0.0,
) -> Method:
    """ELLE-A: ELLE with a penalty that wakes up when the loss suddenly bends, and fades otherwise.

    Lambda starts at 0. After an update whose E exceeds mean + s * deviation of all earlier ones it becomes
    ``weight``, else it shrinks by ``decay``. Other settings as in ELLE.

    Args:
        weight: lambda when awake; 4,000 for CIFAR-10, 20,000 for ImageNet (there over the last 500 values of E).
        decay: factor per update.
        sensitivity: s.
    """
    loss = AdaptiveLinearityError(weight, decay, sensitivity, label_smoothing)
    return with_loss(noise_scale, relative_alpha, box, loss)
