"""Single-step training from zero."""

from headstart.core.method import Method, TaskInfo
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Zero
from headstart.parts.losses import CrossEntropy


@register("fgsm", source="Goodfellow, Shlens, Szegedy, ICLR 2015", passes="2F 1Bx 1B", norms=ANY_NORM)
def build(info: TaskInfo, relative_alpha: float = 1.0, label_smoothing: float = 0.0) -> Method:
    """FGSM-AT: one sign step of length epsilon from zero; the textbook case of catastrophic overfitting.

    delta = box(epsilon * sign grad CE(f(x), y)); loss CE(f(x + delta), y). Smoothing applies to the loss and to
    the ascended cross-entropy alike, as in FastAT Benchmark.
    """
    ascent = SignSteps(relative_alpha, label_smoothing=label_smoothing)
    return Method(Zero(), ascent, CrossEntropy(label_smoothing))
