"""A method in a loop of one's own: what it needs to be told, what it leaves alone, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.api import load_method
from headstart.errors import SettingError
from headstart.training.own_loop import LoopMethod
from tests.helpers import CLASSES, IMAGE_SHAPE, Batch, batches, info, run_method, sgd, tiny_net

DATA: list[Batch] = batches(4) * 3
SETTINGS: dict[str, dict[str, Any]] = {
    "fgsm-sdi": {"generator_width": 4, "generator_every": 2},
    "sdi-memory": {"generator_width": 4, "generator_every": 2},
    "fgsm-mep": {},
    "free": {"replays": 1},
    "awp": {"method_args": {"steps": 1}},
}
STOP = 5


def loop_method(name: str, **changes: Any) -> LoopMethod:
    torch.manual_seed(3)
    task: dict[str, Any] = {"epsilon": "8/255", "classes": CLASSES, "image_shape": IMAGE_SHAPE}
    task |= {"updates": len(DATA), "epochs": 3, "samples": 32, "batch_size": 8}
    return load_method(name, **task | SETTINGS.get(name, {}) | changes)


def own_loop(method: LoopMethod, network: nn.Module, optimizer: torch.optim.Optimizer, data: list[Batch]) -> None:
    for x, y, index in data:
        optimizer.zero_grad()
        method(network, x, y, index).backward()
        optimizer.step()


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    """Stopped in the second epoch, and loaded into a loop that began elsewhere."""
    whole, network = loop_method(name), tiny_net()
    optimizer = sgd(network)
    torch.manual_seed(5)
    own_loop(whole, network, optimizer, DATA)

    first, stopped = loop_method(name), tiny_net()
    optimizer = sgd(stopped)
    torch.manual_seed(5)
    own_loop(first, stopped, optimizer, DATA[:STOP])
    state = {"method": first.state_dict(), "network": stopped.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"random": torch.get_rng_state()}, tmp_path / "state.pt")

    torch.manual_seed(99)
    second, resumed = loop_method(name), tiny_net(seed=1)
    optimizer = sgd(resumed)
    own_loop(second, tiny_net(seed=2), sgd(tiny_net()), DATA[:1])  # it has been used before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(state["method"])
    resumed.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    own_loop(second, resumed, optimizer, DATA[STOP:])

    whole.finish()
    second.finish()
    assert_equal(resumed.state_dict(), network.state_dict())
    assert_equal(second.state_dict(), whole.state_dict())


def assert_equal(one: Any, other: Any) -> None:
    """Nested states, bit by bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def test_makes_the_engines_updates() -> None:
    ours, theirs = tiny_net(), tiny_net()
    method = loop_method("fgsm-sdi")
    torch.manual_seed(5)
    own_loop(method, ours, sgd(ours), DATA)
    reference = loop_method("fgsm-sdi").method
    torch.manual_seed(5)
    run_method(reference, theirs, DATA, epochs_of=4)
    assert_equal(ours.state_dict(), theirs.state_dict())
    assert info().threat == method.info.threat


@pytest.mark.parametrize("name", ["sdi-memory", "fgsm-mep"])
def test_says_what_a_method_that_remembers_samples_needs(name: str) -> None:
    x, y, index = DATA[0]
    with pytest.raises(SettingError, match=f"method {name} remembers every sample; give index"):
        loop_method(name)(tiny_net(), x, y)
    with pytest.raises(SettingError, match=f"method {name} remembers every sample; give samples"):
        loop_method(name, samples=0)
    loop_method(name)(tiny_net(), x, y, index).backward()  # type: ignore[no-untyped-call]
    loop_method("free", samples=0)(tiny_net(), x, y).backward()  # type: ignore[no-untyped-call]


def test_frozen_layers_stay_frozen() -> None:
    network = tiny_net()
    network.bn2.eval()  # type: ignore[union-attr, operator]
    modes = [layer.training for layer in network.modules()]
    own_loop(loop_method("trades", steps=1), network, sgd(network), DATA[:2])
    assert [layer.training for layer in network.modules()] == modes
    counted = [int(network.state_dict()[f"bn{k}.num_batches_tracked"]) for k in (1, 2, 3)]
    assert counted[1] == 0
    assert min(counted[0], counted[2]) > 0


def test_a_model_left_in_evaluation_mode_trains_on(caplog: pytest.LogCaptureFixture) -> None:
    """As after a validation: with the frozen layers that it had before. At the very beginning a warning says so."""
    network, method = tiny_net(), loop_method("fgsm")
    network.bn2.eval()  # type: ignore[union-attr, operator]
    own_loop(method, network, sgd(network), DATA[:1])
    network.eval()
    own_loop(method, network, sgd(network), DATA[:1])
    assert network.training
    assert not network.bn2.training  # type: ignore[union-attr]
    assert not caplog.text
    own_loop(loop_method("fgsm"), network.eval(), sgd(network), DATA[:1])
    assert all(layer.training for layer in network.modules())
    assert "given in evaluation mode" in caplog.text
