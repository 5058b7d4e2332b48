"""Small networks trained on digits while the tests run: each in a few seconds, once a session."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Adam

from headstart.core.threat import ThreatModel
from headstart.methods.registry import build_method
from headstart.models import build_model
from tests.helpers import info, run_method

EPSILON = 0.15
TRAINING, BATCH = 1024, 64
SETTINGS: dict[str, dict[str, Any]] = {
    "pgd-at": {"steps": 2, "relative_alpha": 0.75},
    "fgsm-sdi": {"generator_width": 8, "label_smoothing": 0.0},
}


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8), fp32 in [0, 1], and labels."""
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float().unsqueeze(1) / 16, torch.from_numpy(bunch.target)


def held_out(n: int) -> tuple[Tensor, Tensor]:
    """The first ``n`` images that no network was trained on."""
    x, y = digits()
    return x[TRAINING : TRAINING + n], y[TRAINING : TRAINING + n]


@functools.cache
def trained(method: str, epochs: int = 10, epsilon: float = EPSILON) -> nn.Module:
    """A small residual network after ``epochs`` of the method; in evaluation mode, frozen."""
    x, y = digits()
    batches = TRAINING // BATCH
    data = list(zip(*(t[:TRAINING].split(BATCH) for t in (x, y, torch.arange(TRAINING))), strict=True))
    task = info(
        ThreatModel(epsilon), image_shape=(1, 8, 8), batch_size=BATCH, samples=TRAINING,
        updates=epochs * batches, epochs=epochs,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_model("small", 10, 1, {"widths": [8, 16]})
        made = build_method(method, task, SETTINGS.get(method, {}))
        run_method(made, net, data * epochs, task.threat, epochs_of=batches, optimizer=Adam(net.parameters(), 0.003))
    return net.eval().requires_grad_(False)
