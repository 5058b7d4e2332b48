"""Plain training, the unit of cost."""

from headstart.core.method import Method, TaskInfo
from headstart.methods.registry import ANY_NORM, register
from headstart.parts.ascents import NoAscent
from headstart.parts.inits import Zero
from headstart.parts.losses import CrossEntropy


@register("standard", source="-", passes="1F 0Bx 1B", norms=ANY_NORM)
def build(info: TaskInfo, label_smoothing: float = 0.0) -> Method:
    """Plain training on clean images: no robustness, the unit of cost."""
    return Method(Zero(), NoAscent(), CrossEntropy(label_smoothing), adversarial=False)
