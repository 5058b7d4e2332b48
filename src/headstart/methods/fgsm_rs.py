"""Single-step training from a random start in the ball."""

from headstart.core.method import Method, TaskInfo
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


@register("fgsm-rs", source="Wong, Rice, Kolter, ICLR 2020", passes="2F 1Bx 1B", norms=ANY_NORM)
def build(info: TaskInfo, relative_alpha: float = 1.25, label_smoothing: float = 0.0) -> Method:
    """FGSM-RS: one sign step of 1.25 epsilon from a uniform random start, projected.

    delta0 = box(U(epsilon)); delta = box(project(delta0 + alpha * sign grad CE(f(x + delta0), y))). Collapses when
    trained long at 8/255, and at larger epsilon. Smoothing applies to loss and ascent alike (FastAT Benchmark).
    """
    ascent = SignSteps(relative_alpha, label_smoothing=label_smoothing)
    return Method(Uniform(), ascent, CrossEntropy(label_smoothing))
