"""Float32 that is float32: no autocast, and TF32 or bfloat16 inside matrix products only where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from headstart.errors import SettingError


def check_search_precision(name: str, device: torch.device) -> None:
    """SettingError where attacks cannot search in this precision on this device."""
    if name == "tf32" and device.type != "cuda":
        raise SettingError(f"search_precision tf32 is for CUDA, not {device.type}; use bf16 or fp32")


def _switches(tf32: bool) -> list[tuple[Any, str, Any]]:
    """(object, attribute, value) for each reduced-precision switch of this torch."""
    cuda: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):  # torch before 2.9
        return [(cuda, "allow_tf32", tf32), (cudnn, "allow_tf32", tf32)]
    # The older switches would not do here: False leaves convolutions to torch.backends.fp32_precision, which the
    # user may have set to TF32, and reading them raises where the user has set some of the newer ones.
    on_cuda = [(part, "fp32_precision", "tf32" if tf32 else "ieee") for part in (cuda, cudnn.conv, cudnn.rnn)]
    on_cpu = [(part, "fp32_precision", "ieee") for part in (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)]
    return on_cuda + on_cpu


@contextmanager
def float32(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Within: no autocast on ``device``, and float32 computed as such whatever the caller has switched on.

    Args:
        device: where the computation runs.
        tf32: let CUDA round the factors of matrix products and convolutions to TF32.
    """
    switches = _switches(tf32)
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
