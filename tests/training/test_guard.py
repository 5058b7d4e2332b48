"""The guard: when it acts, what going back returns and what goes on, and that it saves a run which collapses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from headstart.core import Clock
from headstart.training.guard import NOISE, SETTLING, Guard, not_finite
from tests.training.runs import tiny

ROBUST = {"n": 64, "clean": 0.9, "fgsm": 0.5, "pgd": 0.4}
SHAKEN = {"n": 64, "clean": 0.9, "fgsm": 0.6, "pgd": 0.25}
COLLAPSED = {"n": 64, "clean": 0.9, "fgsm": 0.8, "pgd": 0.1}
DEAD = {"n": 64, "clean": 0.1, "fgsm": 0.1, "pgd": 0.1}


def guard_of(network: nn.Module, **changes: Any) -> tuple[Guard, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    return Guard(tiny(on_collapse="rollback", **changes), {"network": network, "optimizer": optimizer}), optimizer


def descend(network: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def judge(guard: Guard, *measured: dict[str, float]) -> list[str | None]:
    return [guard.judge(m, Clock(update=k)) for k, m in enumerate(measured)]


def test_goes_back_to_the_last_sound_state() -> None:
    """Weights and momentum return, the learning rate does not; the state survives what happens afterwards."""
    network = nn.Linear(2, 1)
    guard, optimizer = guard_of(network)
    descend(network, optimizer)
    assert judge(guard, ROBUST) == [None]
    sound = network.weight.detach().clone()
    descend(network, optimizer)
    assert judge(guard, SHAKEN) == [None]  # no fault, but nothing to return to either
    optimizer.param_groups[0]["lr"] = 0.25
    for _ in range(2):
        descend(network, optimizer)
        assert guard.go_back(finite=True) is not None
        assert torch.equal(network.weight, sound)
        assert optimizer.param_groups[0]["lr"] == 0.25
        assert torch.equal(optimizer.state[network.weight]["momentum_buffer"], torch.ones(1, 2))


def test_says_what_is_wrong_and_gives_a_changed_training_time() -> None:
    guard, _ = guard_of(nn.Linear(2, 1))
    assert guard.go_back(finite=True) is None  # nothing to go back to
    fault = judge(guard, ROBUST, COLLAPSED)[1]
    assert fault == "catastrophic overfitting at update 1 in epoch 0: PGD accuracy 10.0%, FGSM accuracy 80.0%"
    assert "clean accuracy 10.0% after 90.0%" in str(judge(guard, DEAD)[0])
    assert guard.go_back(finite=True) == "uniform noise of 2 epsilon on the images"
    assert judge(guard, *[COLLAPSED] * SETTLING) == [None] * SETTLING
    assert judge(guard, COLLAPSED)[0] is not None
    assert guard.go_back(finite=True) == "uniform noise of 3 epsilon on the images"
    assert guard.go_back(finite=True) is None
    assert guard.noise == NOISE[-1]


def test_clips_gradients_once_numbers_were_not_finite() -> None:
    guard, _ = guard_of(nn.Linear(2, 1), clip_gradient=5.0)
    judge(guard, ROBUST)
    assert (guard.clip, guard.go_back(finite=False), guard.clip) == (5.0, "gradients clipped to norm 1", 1.0)
    assert guard.go_back(finite=False) is None
    assert guard.noise == 0


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_names_what_is_not_finite(bad: float) -> None:
    good = [torch.zeros(3), torch.zeros(2, dtype=torch.int8)]
    assert not_finite({"loss": good, "weights": good, "nothing": []}) is None
    assert not_finite({"loss": good, "weights": [*good, torch.tensor([0.0, bad])]}) == "weights"
