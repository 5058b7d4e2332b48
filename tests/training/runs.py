"""Tiny recipes and the files that two equal runs must share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from headstart.recipes.recipe import Recipe

BATCHES, EPOCHS = 4, 3
UPDATES = BATCHES * EPOCHS


def tiny(method: str = "fgsm-rs", **changes: Any) -> Recipe:
    """Three epochs of four updates on a network of two narrow blocks."""
    fields: dict[str, Any] = {
        "method": method,
        "model": "small",
        "model_args": {"widths": [4, 8]},
        "epsilon": 0.2,
        "epochs": EPOCHS,
        "batch_size": 64,
        "val_size": 64,
        "pad": 1,
        "lr": 0.05,
    }
    if method == "fgsm-sdi":
        fields["method_args"] = {"generator_width": 4}
    return Recipe(**fields | changes)


def records(run: Path) -> dict[str, Any]:
    """What may not depend on how a run got to its end: every bit of both networks, what is said of them, metrics."""
    found: dict[str, Any] = {"metrics": (run / "metrics.jsonl").read_text()}
    for name in ("model-last.safetensors", "model.safetensors"):
        with safe_open(run / name, framework="pt") as stored:
            found[name] = stored.metadata()
            for key in stored.keys():  # noqa: SIM118
                found[f"{name}: {key}"] = stored.get_tensor(key).numpy().tobytes()
    return found


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Plain(nn.Module):
    """A network without batch-norm, whose samples therefore do not see each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.conv(x).relu().flatten(1))
        return logits
