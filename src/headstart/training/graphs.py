"""Weight updates replayed as CUDA graphs: at small batches launching kernels costs more than running them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from headstart.core import Method, Passes, Step
from headstart.errors import SettingError

EAGER_UPDATES = 3  # of each kind before it is recorded: libraries choose algorithms, optimisers make their state
KEPT = 8  # recordings; keys that follow the epoch make new ones all the time
INPUTS = ("x", "y", "index", "geometry")


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    step: Step
    loss: Tensor
    passes: Passes


class GraphedUpdates:
    """Runs ``update(step)``, which returns the loss; records and replays it where the method gives a graph key.

    A recording holds the device's work alone. What the host decides must follow from the key, the batch shape and
    the norm; epsilon and the learning rates are read from tensors that are refreshed before each replay. All eager
    and recorded updates must run on one stream that is not the default one.

    Args:
        update: method, backward, optimiser step.
        passes: the target's counters, which a replay advances as the recorded update did.

    Raises:
        SettingError: when called, of an update that cannot be recorded, such as of a network that looks at a value.
    """

    def __init__(
        self,
        update: Callable[[Step], Tensor],
        method: Method,
        optimizer: Optimizer,
        passes: Passes,
        device: torch.device,
    ) -> None:
        self.update, self.method, self.optimizer, self.passes = update, method, optimizer, passes
        self.epsilon = torch.zeros((), device=device, dtype=torch.float64)
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.pool = torch.cuda.graph_pool_handle()
        self.recordings: dict[Any, _Recording] = {}
        self.seen: Counter[Any] = Counter()

    def __call__(self, step: Step) -> tuple[Tensor, Step]:
        """The loss, and the step with its tensors: the given one, or the recorded one with this batch in it."""
        key = self.method.graph_key(step)
        if key is None:
            return self.update(step), step
        # Numbers of the optimiser other than the rate are recorded with the update.
        momenta = tuple((group.get("momentum"), group.get("betas")) for group in self.optimizer.param_groups)
        key = (key, step.x.shape, step.threat.norm, momenta)
        self.seen[key] += 1
        if self.seen[key] <= EAGER_UPDATES:
            return self.update(step), step
        self.epsilon.fill_(step.threat.epsilon)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if key not in self.recordings:
            if len(self.recordings) == KEPT:
                del self.recordings[next(iter(self.recordings))]
            self.recordings[key] = self._record(step)
        return self._replay(self.recordings[key], step)

    def _record(self, step: Step) -> _Recording:
        inputs = {name: tensor.clone() for name in INPUTS if (tensor := getattr(step, name)) is not None}
        step = replace(step, threat=step.threat.reading(self.epsilon), **inputs)
        before = asdict(self.passes)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # What another thread does is not forbidden meanwhile: one pins the memory of the batches to come.
        recording = torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local")
        try:
            with self._recordable(), recording:
                loss = self.update(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the device does not go on from here: nothing could be tried again
            reason = " ".join(str(error).split())[:200]
            raise SettingError(f"cuda_graphs: this update cannot be recorded ({reason}); set it to false") from error
        made = {name: count - before[name] for name, count in asdict(self.passes).items()}
        vars(self.passes).update(before)  # recording runs nothing
        return _Recording(graph, inputs, step, loss, Passes(**made))

    @contextmanager
    def _recordable(self) -> Iterator[None]:
        """Inside, the optimiser reads its rates from tensors, and Adam knows that its count of steps is one too."""
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group |= {"lr": rate} | ({"capturable": True} if "capturable" in group else {})
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group |= values

    def _replay(self, recording: _Recording, step: Step) -> tuple[Tensor, Step]:
        for name, tensor in recording.inputs.items():  # the step's own may have been replaced, as by a cutout
            tensor.copy_(getattr(step, name))
        recording.step.clock = step.clock
        recording.graph.replay()
        for field in fields(Passes):
            count = getattr(self.passes, field.name) + getattr(recording.passes, field.name)
            setattr(self.passes, field.name, count)
        return recording.loss, recording.step
