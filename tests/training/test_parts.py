"""The parts of the loop: schedules in exact updates, the weight average, optimisers, what a checkpoint accepts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.errors import UserError
from headstart.runs.checkpoint import load_state, save_state
from headstart.runs.files import save_weights
from headstart.training.average import WeightAverage
from headstart.training.meters import Meters
from headstart.training.optim import make_optimizer, make_schedule
from tests.training.runs import tiny

LR = 0.4


def rates(updates: int, per_epoch: int = 1, **settings: Any) -> list[float]:
    """The learning rate of every update, and the one left after the last."""
    recipe = tiny(lr=LR, **settings)
    optimizer = make_optimizer(recipe, nn.Linear(2, 2))
    schedule = make_schedule(recipe, optimizer, updates, per_epoch)
    used = []
    for _ in range(updates):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*used, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("updates", [1, 7, 40])
def test_one_cycle(updates: int) -> None:
    """Cosine up to the peak, cosine down; the end of the schedule is the end of the run."""

    def cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    top = 0.25 * (updates + 1) - 1
    expected = [
        cosine(LR / 25, LR, u / top) if u <= top else cosine(LR, LR / 250_000, (u - top) / (updates - top))
        for u in range(updates + 1)
    ]
    used = rates(updates, schedule="one-cycle", peak=0.25)
    assert used == pytest.approx(expected, rel=1e-9)
    assert used[-1] == pytest.approx(LR / 250_000)
    if updates == 7:  # the peak lies at an update: 0.25 * 8 - 1
        assert used[1] == pytest.approx(LR)


def test_triangular() -> None:
    used = rates(10, schedule="triangular", peak=0.4)
    up = [LR * (u + 1) / 5 for u in range(4)]
    down = [LR * (10 - u) / 6 for u in range(4, 11)]
    assert used == pytest.approx(up + down)
    assert used[4] == LR
    assert used[-1] == 0
    assert min(used[:-1]) > 0


def test_multi_step_changes_at_the_first_update_of_an_epoch() -> None:
    used = rates(30, per_epoch=5, schedule="multi-step", milestones=[2, 4], epochs=6)
    assert [used[u] / LR for u in (0, 9, 10, 19, 20, 29)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant() -> None:
    assert set(rates(5, schedule="constant")) == {LR}


def test_a_milestone_that_is_never_reached_is_refused() -> None:
    with pytest.raises(UserError, match="milestone 6 is not reached in 6 epochs"):
        rates(6, schedule="multi-step", milestones=[2, 6], epochs=6)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimizers_take_what_the_recipe_says(name: str, kind: str) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    optimizer = make_optimizer(tiny(optimizer=name, lr=LR, weight_decay=0.01, momentum=0.7), network)
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__ == kind
    assert (group["lr"], group["weight_decay"]) == (LR, 0.01)
    assert group.get("momentum", 0.7) == 0.7
    assert [id(p) for p in group["params"]] == [id(p) for p in network[1].parameters()]


def batch_norm_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def literal_average(states: list[dict[str, Tensor]], decay: float, enters: list[bool]) -> dict[str, Tensor]:
    """The moving average of these states, one after the other, written out; ``states[0]`` is where it starts."""
    average = {name: tensor.double().clone() for name, tensor in states[0].items() if tensor.is_floating_point()}
    t = 0
    for state, counts in zip(states[1:], enters, strict=True):
        if counts:
            now = min(decay, (1 + t) / (10 + t))
            for name in average:
                average[name] = now * average[name] + (1 - now) * state[name].double()
            t += 1
    return average


@pytest.mark.parametrize("rule", ["always", "sometimes"])
def test_weight_average_equals_a_literal_one(rule: str) -> None:
    network = batch_norm_network()
    average = WeightAverage(network, 0.6)
    enters = [rule == "always" or i % 3 > 0 for i in range(20)]
    states = [{name: t.clone() for name, t in network.state_dict().items()}]
    for counts in enters:
        with torch.no_grad():
            for p in network.parameters():
                p += torch.randn_like(p)
        network.train()(torch.randn(8, 3))
        states.append({name: t.clone() for name, t in network.state_dict().items()})
        average.update(None if rule == "always" else torch.tensor(counts))
    expected = literal_average(states, 0.6, enters)
    saved = average.state_dict()
    assert saved["updates"] == sum(enters)
    averaged = average.module.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name].double(), tensor, rtol=1e-5, atol=1e-6)
    assert averaged["1.num_batches_tracked"] == 20
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())


def test_weight_average_goes_on_from_its_state() -> None:
    network = batch_norm_network()
    straight, stopped = WeightAverage(network, 0.9), WeightAverage(network, 0.9)
    for i in range(6):
        with torch.no_grad():
            for p in network.parameters():
                p += 0.1 * (i + 1)
        straight.update()
        if i == 3:
            restored = WeightAverage(network, 0.9)
            restored.load_state_dict({k: v.clone() if isinstance(v, Tensor) else v for k, v in state(stopped).items()})
            stopped = restored
        stopped.update()
    assert straight.updates == stopped.updates == 6
    for one, other in zip(straight.module.parameters(), stopped.module.parameters(), strict=True):
        assert torch.equal(one, other)


def state(average: WeightAverage) -> dict[str, Any]:
    return average.state_dict()


def test_meters_weigh_batches_by_their_size() -> None:
    meters = Meters(torch.device("cpu"))
    assert meters.read() == {"loss": 0.0, "train_accuracy": 0.0}
    meters.add(torch.tensor(1.0), torch.tensor([[2.0, 0.0]] * 3), torch.tensor([0, 0, 1]), 0)
    meters.add(torch.tensor(5.0), torch.tensor([[0.0, 1.0]]), torch.tensor([0]), 1)
    assert meters.read() == {"loss": 2.0, "train_accuracy": 0.5}
    meters.reset()
    assert meters.read()["loss"] == 0


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.pt"
    rng = torch.get_rng_state()
    saved = {"weights": {"a": torch.arange(3)}, "clock": {"update": 3}, "rng": rng, "none": None}
    save_state(path, saved)
    loaded = load_state(path)
    assert torch.equal(loaded["weights"]["a"], torch.arange(3))
    assert torch.equal(loaded["rng"], rng)
    assert (loaded["clock"], loaded["none"]) == ({"update": 3}, None)
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_what_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        save_state(tmp_path / "file" / "state.pt", {})
    with pytest.raises(UserError, match="cannot write"):
        save_weights(tmp_path / "file" / "w.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="does not exist"):
        load_state(tmp_path / "nothing.pt")
