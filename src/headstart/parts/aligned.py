"""What methods share that hold the logits before and after the step together: FGSM-PGI's and FGSM-UAP's."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F

from headstart.core.method import Init, Method
from headstart.parts.ascents import SignSteps
from headstart.parts.losses import Aligned, cross_entropy


def aligned(init: Init, weight: float, relative_alpha: float, label_smoothing: float) -> Method:
    """One sign step from ``init`` and the loss CE_s(f(x + delta), y) + lambda * MSE(f(x + delta), f(x + delta0)).

    The step raises CE_s too; the MSE is that of logits, both differentiated, lambda = ``weight``.
    """
    criterion = partial(cross_entropy, label_smoothing=label_smoothing)
    ascent = SignSteps(relative_alpha, label_smoothing=label_smoothing)
    return Method(init, ascent, Aligned(criterion, F.mse_loss, weight))
