"""How the images that are left become batches."""

from __future__ import annotations

import pytest
import torch

from headstart.evaluation.plan import dealt


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [
        (430, 250, [215, 215]),
        (650, 250, [163, 163, 162, 162]),
        (1000, 250, [250, 250, 250, 250]),
        (250, 250, [250]),
        (251, 250, [126, 125]),
        (5, 2, [2, 1, 1, 1]),
        (3, 1, [1, 1, 1]),
        (1, 4, [1]),
        (0, 4, []),
    ],
)
def test_batches_are_equal_and_two_processes_have_as_much_to_do(rows: int, size: int, sizes: list[int]) -> None:
    chosen = 7 * torch.arange(rows)
    batches = dealt(chosen, size)
    assert [len(batch) for batch in batches] == sizes
    assert not batches or torch.cat(batches).equal(chosen), "in their order"
