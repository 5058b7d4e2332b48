"""What is done to some rows of a batch, at the price of those rows."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The rows (B, ...) of ``one`` where ``rows``, bool (B,), says so, and else of ``other``; a new tensor.

    ``torch.where`` decides element by element, which on a CPU takes many times as long as to copy the rows; on a GPU
    nobody should wait for how many there are.
    """
    if one.device.type != "cpu":
        return torch.where(rows.view(-1, *[1] * (one.dim() - 1)), one, other)
    index, result = rows.nonzero().squeeze(1), other.clone()
    result[index] = one[index]
    return result
