"""CUDA graphs without a GPU: a tape of the operations of the update that is recorded, played again on a CPU.

What holds for a graph holds here. Recording runs nothing. A replay does the same operations on the same memory, with
the numbers that the host had when they were recorded, and random ones of its own. What would wait for the device is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITING = (aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2)
"""What needs the value of a tensor."""
INDEXING = (aten.index, aten.index_put, aten.index_put_)
"""What does where it is given a mask."""
UPLOADS = (aten.lift_fresh,)
"""What brings a number from the host in a tensor of its own."""
UNDECLARED = {aten.native_batch_norm: (3, 4)}
"""Arguments that an operation writes to without saying so: running statistics."""


class Tape(TorchDispatchMode):
    """What ``torch.cuda.CUDAGraph`` is there; records what runs inside of it.

    Attributes:
        calls: operation, arguments, named arguments and results.
        before: by its memory, what was there before recording and was written to, and a copy.
        made: by its memory, what was made while recording; kept, so that no other tensor takes its place.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        masked = func.overloadpacket in INDEXING and any(t.dtype == torch.bool for t in tensors(args[1]))
        if masked or func.overloadpacket in WAITING + UPLOADS:
            raise RuntimeError(f"{func} is not permitted\nwhile a stream is capturing")
        for tensor in written(func, args, kwargs):
            if place(tensor) not in self.made and place(tensor) not in self.before:
                self.before[place(tensor)] = tensor, tensor.clone()
        results = func(*args, **kwargs)
        self.made |= {place(t): t for t in own(results, args, kwargs)}
        self.calls.append((func, args, kwargs, results))
        return results

    def undo(self) -> None:
        """Recording runs nothing: what was written to gets its numbers back."""
        for tensor, before in self.before.values():
            tensor.copy_(before)

    def replay(self) -> None:
        """As of a CUDA graph."""
        self.recorder.replayed += 1
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, results in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(own(results, args, kwargs), own(again, args, kwargs), strict=True):
                    old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    """Its memory."""
    return tensor.untyped_storage()._cdata


def own(results: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The results that have memory of their own: no views, and nothing that was changed in place."""
    given = {place(tensor) for tensor in tensors((args, kwargs))}
    return [tensor for tensor in tensors(results) if place(tensor) not in given]


def written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    found = [args[i] for i in UNDECLARED.get(func.overloadpacket, ())]
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[i] if i < len(args) else kwargs.get(argument.name))
    return tensors(found)


class Recorder:
    """Counts, and stands in for what ``torch.cuda`` has around graphs.

    Attributes:
        capturing: whether an update is being recorded.
        recorded, replayed: how many graphs, and how often any of them.
    """

    def __init__(self) -> None:
        self.capturing, self.recorded, self.replayed = False, 0, 0

    @contextmanager
    def graph(self, tape: Tape, pool: None, stream: None, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local", "a thread that pins memory would end the recording"
        random, self.capturing = torch.get_rng_state(), True
        try:
            with tape:
                yield
        finally:
            self.capturing = False
        torch.set_rng_state(random)
        with torch.no_grad():
            tape.undo()
        self.recorded += 1

    def is_capturing(self) -> bool:
        return self.capturing


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Updates can be recorded on a CPU, and optimisers ask whether they are."""
    made = Recorder()
    for name, value in {
        "CUDAGraph": lambda: Tape(made),
        "graph": made.graph,
        "graph_pool_handle": lambda: None,
        "current_stream": lambda: None,
        "Stream": lambda device: None,
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: made)
    return made
