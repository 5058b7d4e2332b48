"""Results as an interactive session shows them: one short line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import headstart
from headstart.evaluation.sweep import sweep


def test_results_are_one_short_line(tmp_path: Path) -> None:
    images = torch.rand(80, 3, 8, 8), torch.arange(80) % 10
    quiet: dict[str, Any] = {"device": "cpu", "progress": False}
    run = headstart.train(
        "cifar10-tiny/fgsm", tmp_path / "run", data=images, samples=80, val_size=16, max_steps=1, **quiet
    )
    assert repr(run) == f"<TrainResult {tmp_path / 'run'}: ResNet, 1 updates>"
    found = headstart.evaluate(run.model, data=images, suite="fgsm", epsilon="8/255", n=20, **quiet)
    assert repr(found).startswith("<Evaluation by fgsm, linf 8/255, 20 images: clean ")
    assert len(repr(found)) < 120
    swept = sweep(run.model, data=images, suite="fgsm", epsilon="8/255", n=20, **quiet)
    assert repr(swept).startswith("<Sweep by fgsm, linf, 20 images: ")
