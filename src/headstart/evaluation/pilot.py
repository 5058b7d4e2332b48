"""The precision that attacks search in, where none was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headstart.attacks.scores import fooled
from headstart.evaluation.search import Bfloat16
from headstart.evaluation.suites import ATTACKS, SUITES, Task
from headstart.evaluation.verdict import inside

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

    Both searches have the same random numbers, and both are judged by the model in float32.
    """
    judge = task.judge or task.model
    right = ~fooled(judge, x, y)
    x, y = x[right], y[right]
    fast = replace(task, model=Bfloat16(task.model), judge=judge)
    lost = broken = _broken("apgd-ce", task, judge, x, y)
    for name in ("apgd-ce", "apgd-t"):
        rows = lost.nonzero().squeeze(1)
        if len(rows) == 0:
            break
        found = _broken(name, fast, judge, *((x, y) if name == "apgd-ce" else (x[rows], y[rows])))
        lost = lost & ~found if name == "apgd-ce" else ~found
    return int(lost.sum()), int(broken.sum())


def _broken(name: str, task: Task, judge: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the attack breaks each image, bool (B,)."""
    attack = ATTACKS[name].prepare(task)
    found = attack(x, y, torch.Generator(x.device).manual_seed(task.seed))
    return fooled(judge, inside(task.threat, x, found), y)
