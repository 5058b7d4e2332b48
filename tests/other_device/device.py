"""A device that is the CPU under another name, so that what a GPU would refuse is refused without one.

Its tensors hold tensors of the CPU, whose kernels do the work: results are those of the CPU, and an operation that is
given tensors of both devices raises. Random numbers are drawn on the CPU. The name of a device lasts as long as the
process; what uses it runs in one of its own.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "other"
aten = torch.ops.aten
ACROSS = (aten.copy_, aten._to_copy)
"""What may be given tensors of both. A GPU takes indices of the CPU too, at the price of a copy in every call."""
KEPT: list[torch.library.Library] = []
"""What is registered ends with its library."""


class OtherTensor(Tensor):
    """A tensor of the device; its numbers lie in ``held``, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OtherTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(operation, *args, **(kwargs or {}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # checkpoints are read to the CPU

    # Two that torch does not hand on to a device written in Python.
    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any) -> Tensor:  # type: ignore[override]
        return OtherTensor(self.held.new_tensor(data))


def compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """What the CPU makes of it, on the device that is asked for, or else on that of the tensors."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours, theirs = (
        [t for t in given if isinstance(t, OtherTensor)],
        [t for t in given if not isinstance(t, OtherTensor)],
    )
    if ours and any(t.dim() for t in theirs) and operation.overloadpacket not in ACROSS:
        raise RuntimeError(f"{operation} of tensors on the CPU and on another device")
    here = bool(ours)
    args, kwargs = tree_map_only(OtherTensor, lambda t: t.held, (args, kwargs))
    if kwargs.get("device") is not None:
        here = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = torch.device("cpu")
    results = operation(*args, **kwargs)
    for t in ours:
        assert (t.shape, t.stride()) == (t.held.shape, t.held.stride()), f"{operation} resized what it was given"
    known = {id(t.held): t for t in ours} | {id(t): t for t in theirs}
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OtherTensor(t) if here else t, results)


class Module(_DummyBackendModule):
    """What ``torch.cuda`` is for a GPU, as far as it is asked."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def arange(start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return OtherTensor(torch.arange(start, end, step, dtype=dtype))


def in_low_precision(library: torch.library.Library, name: str) -> None:
    """Autocast's part in an operation."""
    operation = getattr(aten, name).default

    def lowered(*args: Any) -> Any:
        low = torch.get_autocast_dtype(NAME)
        args = tree_map_only(Tensor, lambda t: t.to(low) if t.dtype == torch.float32 else t, args)
        with torch.autocast(NAME, enabled=False):
            return operation(*args)

    library.impl(name, lowered, "AutocastPrivateUse1")


def register() -> None:
    """From now on, in this process, the device is there, and generators of it draw on the CPU."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    every, operations = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    KEPT.extend([every, operations])
    every.fallback(compute, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in ("conv2d", "linear", "matmul"):
        in_low_precision(operations, name)
    # torch makes these by resizing an empty tensor, of which the wrapper would not know.
    operations.impl("arange.start_step", arange, "PrivateUse1")
    operations.impl("arange.start", arange, "PrivateUse1")
    operations.impl("arange", lambda end, **more: arange(0, end, **more), "PrivateUse1")
    operations.impl("eye", lambda n, *, dtype=None, **_: OtherTensor(torch.eye(n, dtype=dtype)), "PrivateUse1")
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else one that changes its type keeps ``held``
    generator = torch.Generator
    for module in [torch, *(m for name, m in sys.modules.items() if name.startswith(("headstart.", "tests.")))]:
        if getattr(module, "Generator", None) is generator:
            module.Generator = lambda device="cpu": generator("cpu")  # type: ignore[attr-defined]
