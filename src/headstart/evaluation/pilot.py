"""The precision that attacks search in, where none was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headstart.attacks.scores import fooled
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.search import Bfloat16
from headstart.evaluation.suites import ATTACKS, SUITES, Task

PILOT, WORK = 50, 4_000_000
"""Images that are attacked in both precisions, and operations for an image below which bfloat16 saves no time."""

logger = logging.getLogger(__name__)


def search_precision(suite: str, task: Task, x: Tensor, y: Tensor) -> str:
    """bf16 where it is fast and loses nothing on the first images (B, C, H, W) with labels (B,); else fp32.

    Args:
        task: with the version of the model on which attacks would search in float32.
    """
    long = any(ATTACKS[name].chain == "standard" for name in SUITES[suite].attacks)
    if not long or not task.alone or task.classes < 4 or not bf16_is_fast(x.device) or work(task.model, x) < WORK:
        return "fp32"
    lost, broken = lost_in_bf16(task, x[:PILOT], y[:PILOT])
    if lost:
        logger.info(f"attacks search in float32: of {broken} images that APGD breaks, {lost} were lost in bfloat16")
    return "fp32" if lost else "bf16"


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16 numbers."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch before 2.10
    return device.type == "cpu" and any(bool(known.get(name)) for name in ("avx512_bf16", "amx_bf16"))


@torch.no_grad()
def work(model: nn.Module, x: Tensor) -> int:
    """Floating-point operations of the forward pass of one image of the batch ``x``."""
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    return int(counter.get_total_flops())


@torch.no_grad()
def lost_in_bf16(task: Task, x: Tensor, y: Tensor) -> tuple[int, int]:
    """How many images APGD-CE breaks that it, and APGD-T after it, does not when it searches in bfloat16; of how many.

    Both searches have the same random numbers, and both are judged by the model in float32, as in an evaluation.
    """
    model = task.judge or task.model
    right = ~fooled(model, x, y)
    x, y = x[right], y[right]
    fast = replace(task, model=Bfloat16(task.model), judge=model)
    broken = _broken("apgd-ce", model, task, x, y)
    lost = broken & ~_broken("apgd-ce", model, fast, x, y)
    if bool(lost.any()):
        rows = lost.nonzero().squeeze(1)
        lost[rows] = ~_broken("apgd-t", model, fast, x[rows], y[rows])
    return int(lost.sum()), int(broken.sum())


def _broken(name: str, model: nn.Module, task: Task, x: Tensor, y: Tensor) -> Tensor:
    """Whether the attack breaks each image, bool (B,), as in an evaluation: near misses are attacked again."""
    return ~Attacker(name, model, task, tf32=False)(x, y, task.seed).right
