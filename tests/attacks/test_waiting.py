"""On an accelerator, the steps of an attack do not wait for it.

Tensors on ``meta`` have no values and are not on the CPU: whoever looks at one of them raises. So the way of a GPU is
walked without one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks import fgsm, pgd
from headstart.attacks.square import _Search
from headstart.core.threat import ThreatModel

N = 8


@pytest.fixture
def task(network: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    x, y = torch.rand(N, 3, 32, 32, device="meta"), torch.zeros(N, dtype=torch.int64, device="meta")
    return network.to("meta"), x, y


@pytest.mark.parametrize("score", ["ce", "margin"])
def test_steps_of_pgd_wait_for_nothing(task: tuple[nn.Module, Tensor, Tensor], threat: ThreatModel, score: str) -> None:
    assert pgd(*task, threat, steps=3, score=score, cycles=True).is_meta
    assert fgsm(*task, threat).is_meta


def test_queries_of_square_wait_for_nothing_until_the_fiftieth(
    task: tuple[nn.Module, Tensor, Tensor], threat: ThreatModel
) -> None:
    model, x, y = task
    search = _Search(model, x, y, threat.epsilon, seed=0, alone=True, judge=None)
    search._hold(torch.arange(N, device="meta"))
    search.best, search.lead = x.clone(), torch.rand(N, device="meta")
    for query in range(49):
        search.ask(query)
    with pytest.raises(RuntimeError, match="meta"):
        search.ask(49)
