"""What published protocols need of schedule, average and validation part, measured by FastAT Benchmark's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart.data import ImageSet
from headstart.data.images import divide
from headstart.errors import UserError
from headstart.models.weights import read_file
from headstart.runs.checkpoint import load_state
from headstart.training.average import WeightAverage
from headstart.training.feed import load_parts
from headstart.training.monitor import Monitor
from headstart.training.optim import make_optimizer, make_schedule
from headstart.training.train import train
from tests.training.runs import tiny

PER_EPOCH = 3
BY_EPOCH: dict[str, Any] = {
    "schedule": "one-cycle",
    "schedule_by": "epoch",
    "cycle_momentum": True,
    "epochs": 100,
    "lr": 0.1,
}


def run(optimizer: str = "sgd", until: int = 100) -> list[tuple[float, float]]:
    """Rate and momentum of every update of 100 epochs."""
    made = make_optimizer(tiny(**BY_EPOCH, optimizer=optimizer), nn.Linear(2, 2))
    schedule = make_schedule(tiny(**BY_EPOCH), made, 100 * PER_EPOCH, PER_EPOCH)
    group, used = made.param_groups[0], []
    for _ in range(until * PER_EPOCH):
        used.append((group["lr"], group["momentum"] if optimizer == "sgd" else group["betas"][0]))
        made.step()
        schedule.step()
    assert schedule.get_last_lr() == [group["lr"]]
    assert group["lr"] == used[-1][0], "nothing comes after the last epoch"
    return used


def test_one_cycle_by_epoch_has_the_benchmarks_rates() -> None:
    used = run()
    assert all(len(set(used[e * PER_EPOCH : (e + 1) * PER_EPOCH])) == 1 for e in range(100)), "constant in an epoch"
    rate = [lr for lr, _ in used[::PER_EPOCH]]
    published = {0: 0.004, 10: 0.0295, 20: 0.079, 40: 0.094, 50: 0.079, 60: 0.059, 70: 0.037, 80: 0.017, 90: 0.004}
    assert {e: rate[e] for e in published} == pytest.approx(published, abs=6e-4)
    assert rate.index(max(rate)) == 29
    assert max(rate) == pytest.approx(0.1)
    assert rate[99] == pytest.approx(4e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_is_cycled_against_the_rate(optimizer: str) -> None:
    momentum = [m for _, m in run(optimizer)[::PER_EPOCH]]
    assert (momentum[0], momentum[29], momentum[99]) == pytest.approx((0.95, 0.85, 0.95))
    assert sorted(momentum[:30], reverse=True) == momentum[:30]
    assert sorted(momentum[29:]) == momentum[29:]


def test_momentum_is_left_alone_unless_asked_for() -> None:
    optimizer = make_optimizer(tiny(momentum=0.7), nn.Linear(2, 2))
    make_schedule(tiny(schedule="one-cycle"), optimizer, 10, 5)
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_cycled_momentum_needs_one_cycle() -> None:
    with pytest.raises(UserError, match="cycle_momentum is for schedule one-cycle, not triangular"):
        tiny(cycle_momentum=True, schedule="triangular")


@pytest.mark.parametrize("schedule", ["one-cycle", "triangular", "multi-step", "constant"])
def test_a_schedule_by_epoch_goes_on_from_its_state(schedule: str) -> None:
    recipe = tiny(schedule=schedule, schedule_by="epoch", epochs=6, milestones=[2, 4], lr=0.1)

    def made() -> tuple[torch.optim.Optimizer, object]:
        optimizer = make_optimizer(recipe, nn.Linear(2, 2))
        return optimizer, make_schedule(recipe, optimizer, 30, 5)

    def rates(optimizer: torch.optim.Optimizer, schedule: object, updates: int) -> list[float]:
        used = []
        for _ in range(updates):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()  # type: ignore[attr-defined]
        return used

    whole = rates(*made(), 30)
    first, cut = made()
    begun = rates(first, cut, 13)
    second, resumed = made()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(cut.state_dict())  # type: ignore[attr-defined]
    assert begun + rates(second, resumed, 17) == pytest.approx(whole)
    assert (len(set(whole)) > 1) == (schedule != "constant")


@pytest.mark.parametrize("gated", [False, True])
def test_an_average_without_warm_up_begins_with_the_first_update(gated: bool) -> None:
    network = nn.Linear(3, 3)
    average = WeightAverage(network, 0.9, warmup=False)
    expected: Tensor | None = None
    for _ in range(5):
        with torch.no_grad():
            network.weight += torch.randn_like(network.weight)
        average.update(torch.tensor(True) if gated else None)
        now = network.weight.detach().clone()
        expected = now if expected is None else 0.9 * expected + 0.1 * now
    torch.testing.assert_close(average.module.weight, expected)


def test_the_last_images_of_the_training_set_validate() -> None:
    train, val = divide(50, 10, "some", "last")
    assert train.tolist() == list(range(40))
    assert val.tolist() == list(range(40, 50))
    data = ImageSet(torch.zeros(50, 8, 8, 3, dtype=torch.uint8), torch.arange(50) % 5, tuple("abcde"), "some")
    parts = load_parts(tiny(val_size=10, validation="last"), data)
    assert [part.labels.tolist() for part in parts] == [
        (torch.arange(50) % 5).tolist()[cut] for cut in (slice(40), slice(40, 50))
    ]


@pytest.mark.parametrize("lags", [True, False])
def test_the_live_network_is_kept_where_it_validates_better_than_its_average(
    lags: bool, tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is claimed of the two."""
    measured = Monitor.measure

    def claim(monitor: Monitor, module: nn.Module, *given: Any, **named: Any) -> dict[str, float]:
        averaged = not any(p.requires_grad for p in module.parameters())
        return measured(monitor, module, *given, **named) | {"pgd": 0.2 if averaged == lags else 0.3}

    monkeypatch.setattr(Monitor, "measure", claim)
    result = train(tiny(average=0.999, average_warmup=False, epochs=1), tmp_path, data=digits, progress=False)
    state = load_state(tmp_path / "checkpoints" / "last.pt")
    live = state["network"]["linear.weight"]
    average = state["average"]["module.linear.weight"]
    assert not torch.equal(live, average)
    kept = load_file(tmp_path / "model.safetensors")["linear.weight"]
    assert torch.equal(kept, live if lags else average)
    assert torch.equal(result.model.state_dict()["linear.weight"], kept)
    assert json.loads(read_file(tmp_path / "model.safetensors").origin["validation"])["pgd"] == 0.3
