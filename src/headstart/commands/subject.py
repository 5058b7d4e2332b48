"""What evaluate and sweep ask alike."""

from __future__ import annotations

from typing import Any, Optional

from jsonargparse import ArgumentParser


def add_subject(sub: ArgumentParser) -> None:
    """What evaluate and sweep ask alike: a network, the images, and how it is attacked."""
    sub.add_argument("source", type=str, help="run folder, weights file, hub:OWNER/NAME or module:callable")
    sub.add_argument("--data", type=Optional[str], default=None, help="default: what the weights were trained on")
    sub.add_argument("--image_size", type=Optional[int], default=None, help="of mixed photographs; default as trained")
    sub.add_argument("--image_column", type=Optional[str], default=None, help="of parquet and hub sets")
    sub.add_argument("--label_column", type=Optional[str], default=None, help="of parquet and hub sets")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--epsilon", type=Optional[str], default=None, help="pixel fraction such as 8/255")
    sub.add_argument("--norm", type=Optional[str], default=None, help="linf or l2")
    sub.add_argument("--model", type=Optional[str], default=None, help="network of a plain state dict")
    sub.add_argument("--model_args", type=Optional[dict[str, Any]], default=None, help="arguments of that network")
    sub.add_argument("--batch_size", type=Optional[int], default=None, help="images per attack batch")
    sub.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    sub.add_argument("--seed", type=int, default=0, help="of the attacks")
