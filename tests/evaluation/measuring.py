"""``evaluate_model`` as most tests call it: settings as keywords, and nothing on stderr."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.evaluation.evaluate import evaluate_model
from headstart.evaluation.result import Evaluation
from headstart.evaluation.settings import FIELDS, EvaluationSettings


def measure(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, suite: str = "standard", **more: Any
) -> Evaluation:
    fields = {name: more.pop(name) for name in FIELDS if name in more and name not in ("device", "transfer_from")}
    return evaluate_model(model, x, y, threat, EvaluationSettings(suite=suite, **fields), **{"progress": False, **more})
