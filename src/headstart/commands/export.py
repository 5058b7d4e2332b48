"""``headstart export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("source", type=str, help="run folder, weights file or hub:OWNER/NAME")
    sub.add_argument("--to", type=str, required=True, help="onnx, torchscript, state_dict or robustbench")
    sub.add_argument("--out", type=Optional[Path], default=None, help="file, or folder for robustbench; default beside")
    sub.add_argument("--name", type=Optional[str], default=None, help="of the model; default the run's")
    sub.add_argument("--data", type=Optional[str], default=None, help="test images to check on; default as trained")
    sub.add_argument("--model", type=Optional[str], default=None, help="network of a plain state dict")
    sub.add_argument("--model_args", type=Optional[dict[str, Any]], default=None, help="arguments of that network")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.runs.export import export

    given = {key: getattr(options, key) for key in ("data", "model", "model_args", "name")}
    print("\n".join(map(str, export(options.source, options.to, options.out, **given))))
    return 0
