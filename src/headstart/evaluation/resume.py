"""An evaluation that was cut off keeps its finished attacks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headstart import __version__
from headstart.core import distributed
from headstart.evaluation.outcome import Outcome
from headstart.runs.environment import package_version
from headstart.runs.files import save_weights

logger = logging.getLogger(__name__)


def fingerprint(models: Sequence[nn.Module | None], tensors: Sequence[Tensor], settings: dict[str, Any]) -> str:
    """Of all that decides an evaluation: structure and weights of the models, images and labels, settings, versions."""
    versions = {name: package_version(name) for name in ("torch", "pyautoattack")}
    weights = [t for model in models if model is not None for t in model.state_dict().values()]
    return checksum([*weights, *tensors], f"{models} {settings} {versions} {__version__}")


def checksum(tensors: Sequence[Tensor], text: str = "") -> str:
    """SHA-256 of tensors, with their types and shapes, and of a text."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Partial:
    """The finished attacks of an evaluation, on disk until its record is stored. Only the first process writes.

    Args:
        path: a .safetensors file; None keeps nothing.
        mark: ``fingerprint`` of the evaluation.
    """

    def __init__(self, path: Path | None, mark: str) -> None:
        self.path, self.mark = path, mark

    def restore(self, outcome: Outcome) -> None:
        """Bring the outcome to where the file's evaluation was cut off; another evaluation's file is passed over."""
        if self.path is None or not self.path.exists():
            return
        try:
            with safe_open(self.path, framework="pt") as stored:
                kept = json.loads((stored.metadata() or {}).get("evaluation", "{}"))
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            logger.warning(f"{self.path} cannot be read ({error}); the evaluation starts anew")
            return
        if kept.get("mark") != self.mark:
            logger.warning(f"{self.path} is of another model, data or settings; the evaluation starts anew")
            return
        outcome.seconds = kept["seconds"]
        outcome.margin, outcome.predicted = tensors["margin"], tensors["predicted"]
        outcome.examples = tensors.get("examples")
        evidence = outcome.evidence
        evidence.robust = tensors["robust"]
        evidence.broken = {name: tensors[f"broken.{name}"] for name in outcome.seconds}
        evidence.left = {name: tensors[f"left.{name}"] for name in outcome.seconds}
        logger.info(f"continuing after {', '.join(outcome.seconds)} ({self.path})")

    def save(self, outcome: Outcome) -> None:
        """Keep the outcome, atomically."""
        if self.path is None or distributed.rank() > 0:
            return
        evidence = outcome.evidence
        tensors = {"margin": outcome.margin, "predicted": outcome.predicted, "robust": evidence.robust}
        tensors |= {f"broken.{name}": flags for name, flags in evidence.broken.items()}
        tensors |= {f"left.{name}": flags for name, flags in evidence.left.items()}
        if outcome.examples is not None:
            tensors["examples"] = outcome.examples
        kept = json.dumps({"mark": self.mark, "seconds": outcome.seconds})
        save_weights(self.path, tensors, {"evaluation": kept})
