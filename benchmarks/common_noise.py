"""Random numbers that two implementations share, whatever the order of their other draws.

The i-th row of n values that is drawn within an update is the same for everybody: it follows from update, n and i. So
one draw of (2B, ...) holds the numbers of two draws of (B, ...), and who draws scalars in between changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

_RAND = torch.rand


class CommonNoise:
    """Stands in for torch's generators while it is ``in_force``.

    Attributes:
        update: index of the weight update; to be moved by whoever makes updates, with ``next_update``.
    """

    def __init__(self, exchanged: Mapping[tuple[int, int], int] | None = None) -> None:
        """Take note of draws that one side makes in another order.

        Args:
            exchanged: (values in a row, block) to the block whose numbers it gets instead, blocks counted per update.
        """
        self.update = 0
        self.exchanged = dict(exchanged or {})
        self._rows: Counter[int] = Counter()
        self._blocks: Counter[int] = Counter()
        self._bases: dict[int, tuple[Tensor, Tensor]] = {}

    def next_update(self) -> None:
        """The next weight update draws anew."""
        self.update += 1
        self._rows.clear()
        self._blocks.clear()
        self._bases.clear()

    def draw(self, shape: torch.Size) -> Tensor:
        """U[0, 1) of that shape."""
        rows = shape[0] if len(shape) in (2, 4) else 1  # an image or a vector alone is one row
        values = max(1, shape.numel() // max(1, rows))
        block = self._blocks[values]
        first = self._rows[values]
        if (values, block) in self.exchanged:
            first = self.exchanged[values, block] * rows
        self._blocks[values] += 1
        self._rows[values] += rows
        drawn = [_RAND(values, generator=self._generator(values, first + i)) for i in range(rows)]
        return torch.stack(drawn).reshape(shape)

    def _generator(self, values: int, row: int) -> torch.Generator:
        return torch.Generator().manual_seed(hash((self.update, values, row)) % 2**31)

    def _like(self, tensor: Tensor) -> Tensor:
        """The numbers for a tensor; a view of another one gets that one's, wherever it lies in it."""
        base = tensor._base
        if base is None or base.numel() == tensor.numel() or not tensor.numel():
            return self.draw(tensor.shape)
        if id(base) not in self._bases:
            self._bases[id(base)] = base, self.draw(base.shape)
        return self._bases[id(base)][1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, what draws uniform numbers draws them here."""

        def size_of(size: tuple[Any, ...]) -> torch.Size:
            return torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)

        def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
            with torch.no_grad():
                return tensor.copy_(low + (high - low) * self._like(tensor))

        def bernoulli_(tensor: Tensor, p: float = 0.5, **_: Any) -> Tensor:
            return tensor.copy_(self._like(tensor) >= 1 - p)

        def rand(*size: Any, **_: Any) -> Tensor:
            return self.draw(size_of(size))

        def rand_like(tensor: Tensor, **_: Any) -> Tensor:
            return self.draw(tensor.shape)

        def randint(low: int, high: int, size: Any = (), **_: Any) -> Tensor:
            return (low + (high - low) * self.draw(torch.Size(size))).floor().long()

        with ExitStack() as stack:
            for name, stand_in in (("rand", rand), ("rand_like", rand_like), ("randint", randint)):
                stack.enter_context(patch.object(torch, name, stand_in))
            stack.enter_context(patch.object(Tensor, "uniform_", uniform_))
            stack.enter_context(patch.object(Tensor, "bernoulli_", bernoulli_))
            yield
