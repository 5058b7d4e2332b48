"""What runs on another device than the CPU does there what it does here; run by ``test_other_device.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from headstart.attacks.square import square
from headstart.core import Target
from headstart.core.threat import ThreatModel
from headstart.data import Batch
from headstart.evaluation.bound import bound_model
from headstart.evaluation.examples import attack
from headstart.evaluation.inspection.attention import grad_cam, looked_at
from headstart.evaluation.inspection.falls import falling_epsilons
from headstart.evaluation.inspection.margins import margins
from headstart.evaluation.inspection.surface import loss_surface
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.suites import ATTACKS
from headstart.evaluation.sweep import sweep_model
from headstart.methods.registry import methods
from headstart.training.train import train
from headstart.training.update import Updater
from tests.attacks.attack_models import linear_task
from tests.contracts.conftest import build
from tests.evaluation.measuring import measure
from tests.helpers import THREAT, batches, clocks, info, sgd, tiny_net
from tests.other_device.device import NAME, register
from tests.training.runs import BATCHES, records, tiny

PER_EPOCH, QUERIES = 2, 200
SMALL = ThreatModel(2 / 255)


@pytest.fixture(scope="module", autouse=True)
def other() -> None:
    register()


def both(made: Callable[[str], Any]) -> tuple[Any, Any]:
    return made("cpu"), made(NAME)


def convolutional() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = tiny_net().eval()
    x = torch.rand(16, 3, 8, 8)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="on the CPU and on another device"):
        torch.rand(3, device=NAME) + torch.rand(3)
    with pytest.raises(RuntimeError, match="on the CPU and on another device"):
        tiny_net().to(NAME)(torch.rand(2, 3, 8, 8))
    assert (torch.ones(3, device=NAME) + 1).cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", methods())
def test_updates(name: str) -> None:
    def trained(device: str) -> list[Tensor]:
        net, method = tiny_net().to(device), build(name, task=info(pad=1)).to(device)
        updater, losses = Updater(method, Target(net), sgd(net)), []
        torch.manual_seed(4)
        for clock, batch in zip(clocks(2 * PER_EPOCH, PER_EPOCH, method.replays), batches(PER_EPOCH) * 2, strict=True):
            x, y, index = (tensor.to(device) for tensor in batch)
            geometry = torch.zeros(len(y), 3, dtype=torch.int64, device=device)
            for r in range(method.replays):
                now = replace(clock, update=clock.update + r)
                losses += [loss for loss, _ in updater(Batch(x, y, index, geometry), THREAT, now)]
        return [tensor.cpu() for tensor in (*losses, *net.state_dict().values())]

    # To the bit, but for the gradient of a gradient.
    torch.testing.assert_close(*both(trained), rtol=0, atol=1e-6 if name == "fgsm-ga" else 0)


TRAININGS: dict[str, dict[str, Any]] = {
    "muon, averaged, epsilon rises": {"optimizer": "muon", "average": 0.9, "epsilon_ramp": 0.5},
    "adamw, rates by depth, clipped": {"optimizer": "adamw", "lr": 1e-3, "layer_decay": 0.5, "clip_gradient": 1.0},
    "a generator, watched": {"method": "fgsm-sdi", "watch_every": 1, "curve_every": 1},
    "a memory, bfloat16": {"method": "fgsm-mep", "precision": "bf16"},
    "frozen, accumulated": {"freeze": ["conv1"], "freeze_batch_norm": True, "accumulate": 2},
    "activations made twice": {"checkpoint_activations": True},
}


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
def test_trainings(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the data to what is stored, stopped inside the second epoch and resumed."""

    def stored(device: str) -> dict[str, Any]:
        monkeypatch.setattr(Fabric, "device", torch.device(device))
        fields = {"device": "cpu", "samples": 64 * BATCHES, "cuda_graphs": False, **changes}
        for stop in (BATCHES + 2, None):
            train(tiny(**fields, max_steps=stop), tmp_path / device, resume=stop is None, progress=False)
        return records(tmp_path / device)

    here, there = both(stored)
    assert here == there


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threat", [SMALL, ThreatModel(0.08, "l2")], ids=["linf", "l2"])
def test_verdicts(threat: ThreatModel, precision: str) -> None:
    model, x, y = linear_task(8, classes=4)
    here, there = both(lambda device: measure(model, x, y, threat, "pgd", device=device, search_precision=precision))
    assert here.broken_by == there.broken_by
    assert here.warnings == there.warnings
    assert 0 < here.broken_by.count(None) < len(x)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"apgd-ce-rand", "apgd-dlr-rand", "square", "transfer"}))
def test_examples(name: str) -> None:
    model, x, y = linear_task(4, classes=4)
    assert torch.equal(*both(lambda device: attack(model.to(device), x, y, name, epsilon=SMALL.epsilon)))


def test_square() -> None:
    model, x, y = linear_task(8, classes=4)

    def searched(device: str) -> Tensor:
        return square(model.to(device), x.to(device), y.to(device), SMALL, queries=QUERIES).cpu()

    with torch.no_grad():
        here, there = both(searched)
        model.to("cpu")
        fooled = model(here).argmax(1) != y
        assert torch.equal(fooled, model(there).argmax(1) != y)
    # Elsewhere than on a CPU it goes on from an image that is fooled until it looks again.
    assert torch.equal(here[~fooled], there[~fooled])
    assert 0 < fooled.sum() < len(x)


def test_a_sweep() -> None:
    model, x, y = linear_task(8, classes=4)
    settings = EvaluationSettings(suite="pgd")
    here, there = both(lambda device: sweep_model(model, x, y, SMALL, settings, device=device, progress=False))
    assert here.broken_at == there.broken_at
    assert len({*here.broken_at}) > 2


def test_a_bound() -> None:
    model, x, y = linear_task(16)
    settings = EvaluationSettings(suite="standard")

    def bounded(device: str) -> Any:
        ticks: Iterator[int] = count()
        return bound_model(model, x, y, SMALL, settings, 60.0, device=device, clock=lambda: 0.1 * next(ticks))

    here, there = both(bounded)
    assert here.broken_by == there.broken_by
    assert 0 < here.broken_by.count(None) < len(x)


@pytest.mark.parametrize("measured", [margins, loss_surface, falling_epsilons])
def test_inspections(measured: Callable[..., Any]) -> None:
    model, x, y = linear_task(8, classes=4)

    def numbers(device: str) -> list[Tensor]:
        draw = torch.Generator(device).manual_seed(0)
        found = measured(model.to(device), x.to(device), y.to(device), SMALL, draw)
        return [value.cpu() for value in ([found] if isinstance(found, Tensor) else vars(found).values())]

    here, there = both(numbers)
    assert all(values.float().isfinite().any() for values in here), "images that never fall would be alike anywhere"
    torch.testing.assert_close(here, there, rtol=0, atol=1e-6)


def test_attention() -> None:
    model, x, _ = convolutional()

    def seen(device: str) -> Any:
        layer = looked_at(model.to(device), x.to(device))
        assert layer is not None
        return [
            value.cpu() for value in vars(grad_cam(model, x.to(device), layer)).values() if isinstance(value, Tensor)
        ]

    here, there = both(seen)
    assert here
    torch.testing.assert_close(here, there, rtol=0, atol=1e-6)
