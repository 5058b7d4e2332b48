"""Memory that the process keeps between the passes of a network on a processor."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

# Parameters of glibc's mallopt, and the values they get: from which size on a block is a mapping of its own, and how
# much that is free at the end of the heap is kept. Older versions take a mapping's size of at most 32 MiB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SIZES, _KEPT = (1 << 30, 1 << 25), (1 << 31) - 1


def reuse_memory(device: torch.device) -> None:
    """On a processor, from now on, freed blocks serve the next pass instead of going back to the system.

    The activations of a pass are blocks of megabytes. The C library gives each back when it is freed, and takes it anew
    in the next pass, where the system fills every page with zeros at its first touch: up to a quarter of a small
    network's processor time (``benchmarks/page_faults.py``). The process keeps up to 2 GiB of what it once needed.

    Does nothing for other devices, for C libraries other than glibc, and where the allocator was replaced.
    """
    if device.type == "cpu" and sys.platform == "linux":
        _set()


@cache
def _set() -> bool:
    """Whether the C library took both; once for the process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _SIZES) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
