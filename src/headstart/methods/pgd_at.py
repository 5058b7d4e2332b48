"""Multi-step training, the robust and slow reference."""

from headstart.core.method import Method, TaskInfo
from headstart.core.target import BatchNormMode
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


@register("pgd-at", source="Madry et al., ICLR 2018", passes="(T+1)F TBx 1B, T = steps (10)", norms=ANY_NORM)
def build(
    info: TaskInfo,
    steps: int = 10,
    relative_alpha: float = 0.25,
    label_smoothing: float = 0.0,
    batch_norm: BatchNormMode | None = None,
) -> Method:
    """PGD-AT: ten sign steps of epsilon/4 (2/255 at 8/255) from a uniform random start, projected each time.

    delta0 = box(U(epsilon)); T times delta = box(project(delta + alpha * sign grad CE(f(x + delta), y))). The ascent
    uses plain cross-entropy; only the loss is smoothed. Sources differ on batch-norm in the ascent: "train" (Wong
    et al.) is the default here, "eval" is FastAT Benchmark's.
    """
    ascent = SignSteps(relative_alpha, steps=steps, batch_norm=batch_norm)
    return Method(Uniform(), ascent, CrossEntropy(label_smoothing))
