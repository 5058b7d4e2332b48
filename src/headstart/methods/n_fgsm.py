"""Single-step training from noise beyond the ball, without projection."""

from headstart.core.method import Method, TaskInfo
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Uniform
from headstart.parts.losses import CrossEntropy


@register("n-fgsm", source="de Jorge et al., NeurIPS 2022", passes="2F 1Bx 1B", norms=ANY_NORM)
def build(
    info: TaskInfo, noise_scale: float = 2.0, relative_alpha: float = 1.0, label_smoothing: float = 0.0
) -> Method:
    """N-FGSM: one sign step of epsilon from noise of twice the radius, not projected onto the ball.

    delta0 = box(U(k * epsilon)), k = ``noise_scale``; delta = box(delta0 + alpha * sign grad), so its norm reaches
    (k + 1) * epsilon: leaving out the projection is the method.
    """
    ascent = SignSteps(relative_alpha, project=False, label_smoothing=label_smoothing)
    return Method(Uniform(noise_scale), ascent, CrossEntropy(label_smoothing))
