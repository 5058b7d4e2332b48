"""Training whose attack rides on the weight update's own backward pass."""

from __future__ import annotations

from torch import Tensor

from headstart.core.method import Init, Method, TaskInfo
from headstart.core.step import Step
from headstart.core.target import Target
from headstart.errors import SettingError
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import NoAscent
from headstart.parts.losses import CrossEntropy
from headstart.parts.memory import BatchMemory


class Carried(Init):
    """delta0 = the perturbation that the last update left, which the update's own backward then differentiates.

    After the update delta <- P(delta + alpha * sign grad_delta L), on its way to the next replay or batch.
    """

    clock_free = True

    def __init__(self, info: TaskInfo, *, relative_alpha: float, box: bool) -> None:
        super().__init__()
        self.memory, self.relative_alpha, self.box = BatchMemory(info), relative_alpha, box

    def forward(self, target: Target, step: Step) -> Tensor:
        carried = self.memory.read(step)
        return (step.threat.box(step.x, carried) if self.box else carried).requires_grad_()

    def observe(self, step: Step) -> None:
        assert step.delta0 is not None
        assert step.delta0.grad is not None
        threat = step.threat
        move = self.relative_alpha * threat.epsilon * threat.direction(step.delta0.grad)
        self.memory.write(step, threat.box(step.x, threat.project(step.delta0.detach() + move)))


@register(
    "free",
    source="Shafahi et al., NeurIPS 2019",
    passes="1F 0Bx 1B per update, m = replays (8) updates a batch",
    norms=ANY_NORM,
)
def build(
    info: TaskInfo, replays: int = 8, relative_alpha: float = 1.0, label_smoothing: float = 0.0, box: bool = True
) -> Method:
    """Free-AT: every batch is replayed m times, and each replay moves the weights and the perturbation at once.

    delta <- P(delta + alpha * sign grad_delta CE(f(x + delta), y)) and a weight update on CE(f(x + delta), y), both
    at the old delta and from one backward; delta, zero at first, is carried from batch to batch. A recipe's epochs
    are passes over the data, so for the same number of updates divide them by m. FastAT Benchmark's Free-AT begins
    every batch from zero and never decays its learning rate: its row is no reference for this method.

    Args:
        replays: m; 8 for CIFAR-10, 4 for ImageNet in the paper.
        relative_alpha: step size over epsilon.
        box: clip the carried perturbation to the next image's box before its first replay, as the authors' ImageNet
            code does. Their CIFAR code does not, and so trains one update in m outside the threat model.
    """
    if replays < 1:
        raise SettingError(f"replays is {replays}; it must be at least 1 (the paper's is 8)")
    init = Carried(info, relative_alpha=relative_alpha, box=box)
    return Method(init, NoAscent(), CrossEntropy(label_smoothing), replays=replays)
