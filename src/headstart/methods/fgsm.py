"""One sign step from zero, from the ball, or from noise beyond it."""

from headstart.core.method import Method, TaskInfo
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform, Zero
from headstart.parts.losses import CrossEntropy


@register("fgsm", source="Goodfellow, Shlens, Szegedy, ICLR 2015", passes="2F 1Bx 1B", norms=ANY_NORM)
def from_zero(info: TaskInfo, relative_alpha: float = 1.0, label_smoothing: float = 0.0) -> Method:
    """FGSM-AT: one sign step of length epsilon from zero; the textbook case of catastrophic overfitting.

    delta = box(epsilon * sign grad CE(f(x), y)); loss CE(f(x + delta), y). Smoothing applies to the loss and to
    the ascended cross-entropy alike, as in FastAT Benchmark.
    """
    ascent = SignSteps(relative_alpha, label_smoothing=label_smoothing)
    return Method(Zero(), ascent, CrossEntropy(label_smoothing))


@register("fgsm-rs", source="Wong, Rice, Kolter, ICLR 2020", passes="2F 1Bx 1B", norms=ANY_NORM)
def from_the_ball(info: TaskInfo, relative_alpha: float = 1.25, label_smoothing: float = 0.0) -> Method:
    """FGSM-RS: one sign step of 1.25 epsilon from a uniform random start, projected.

    delta0 = box(U(epsilon)); delta = box(project(delta0 + alpha * sign grad CE(f(x + delta0), y))). Collapses when
    trained long at 8/255, and at larger epsilon. Smoothing applies to loss and ascent alike (FastAT Benchmark).
    """
    ascent = SignSteps(relative_alpha, label_smoothing=label_smoothing)
    return Method(Uniform(), ascent, CrossEntropy(label_smoothing))


@register("n-fgsm", source="de Jorge et al., NeurIPS 2022", passes="2F 1Bx 1B", norms=ANY_NORM)
def from_noise(
    info: TaskInfo, noise_scale: float = 2.0, relative_alpha: float = 1.0, label_smoothing: float = 0.0
) -> Method:
    """N-FGSM: one sign step of epsilon from noise of twice the radius, not projected onto the ball.

    delta0 = box(U(k * epsilon)), k = ``noise_scale``; delta = box(delta0 + alpha * sign grad), so its norm reaches
    (k + 1) * epsilon: leaving out the projection is the method.
    """
    ascent = SignSteps(relative_alpha, project=False, label_smoothing=label_smoothing)
    return Method(Uniform(noise_scale), ascent, CrossEntropy(label_smoothing))
