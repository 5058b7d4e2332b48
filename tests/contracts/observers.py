"""Watchers of what PyTorch really does, independent of the library's own counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.core import Passes

aten = torch.ops.aten


class ConvolutionCounter(TorchDispatchMode):
    """Counts passes through a network at its convolutions, told apart by the address of their weights.

    Attributes:
        passes: seen at the network's first convolution.
        images: that went through each of these passes.
        weight_gradients: of each convolution of the network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        self.first = convolutions[0].weight.data_ptr()
        self.passes, self.images = Passes(), Passes()
        self.weight_gradients = {m.weight.data_ptr(): 0 for m in convolutions}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.convolution.default and args[1].data_ptr() == self.first:
            self.passes.forwards += 1
            self.images.forwards += len(args[0])
        elif func is aten.convolution_backward.default and (weight := args[2].data_ptr()) in self.weight_gradients:
            to_input, to_weight, _ = args[-1]
            self.weight_gradients[weight] += to_weight
            if weight == self.first:
                self.passes.backwards += to_weight
                self.images.backwards += to_weight * len(args[1])
                self.passes.input_gradients += to_input and not to_weight
                self.images.input_gradients += (to_input and not to_weight) * len(args[1])
        return func(*args, **(kwargs or {}))


class HostSynchronisation(AssertionError):
    """An operation had to wait for the device."""


# Reading a scalar; sizes that depend on values; decompositions that look whether they succeeded; a tensor built from
# Python numbers, which is copied to the device.
WAITING = {
    aten._linalg_check_errors,
    aten._linalg_svd,
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.item,
    aten.lift_fresh,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique2,
}
READING = ("__array__", "__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist")


class NoHostSynchronisation(TorchDispatchMode):
    """Refuses operations that would make the host wait for a device, were there one."""

    paused = False  # inside an optimiser, which keeps its step count on the host whatever the device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        indexes_by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if not self.paused and (packet in WAITING or indexes_by_mask):
            raise HostSynchronisation(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_synchronisation() -> Iterator[None]:
    """Both nets: operators as dispatched, and the methods of Tensor that never reach the dispatcher on a CPU."""
    mode = NoHostSynchronisation()

    def refusing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not mode.paused:
                raise HostSynchronisation(f"Tensor.{name}")
            return original(self, *args, **kwargs)

        return read

    def pause(paused: bool) -> Callable[..., None]:
        def hook(*args: Any) -> None:
            mode.paused = paused

        return hook

    hooks = [register_optimizer_step_pre_hook(pause(True)), register_optimizer_step_post_hook(pause(False))]

    def moving(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if any(isinstance(to, str) and to.startswith("cpu") for to in (*args, *kwargs.values())):
            raise HostSynchronisation("Tensor.to")
        return to_method(self, *args, **kwargs)

    to_method = Tensor.to
    own = {name: Tensor.__dict__.get(name) for name in (*READING, "to")}
    for name in READING:
        setattr(Tensor, name, refusing(name, getattr(Tensor, name)))
    Tensor.to = moving  # type: ignore[method-assign,assignment]
    try:
        with mode:
            yield
    finally:
        for name, original in own.items():
            if original is None:  # inherited from the C base class
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, original)
        for hook in hooks:
            hook.remove()
