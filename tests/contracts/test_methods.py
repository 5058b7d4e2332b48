"""What every method must hold: its threat bounds, its cost, its state, and the network as it found it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Passes, Step, Target
from headstart.core.threat import ThreatModel
from headstart.data import Batch, ImageSet
from headstart.methods.registry import build_method, methods
from headstart.training.train import Trainer, TrainResult, train
from tests.contracts.conftest import build
from tests.contracts.expectations import EXPECTED, Expected
from tests.contracts.observers import ConvolutionCounter, HostSynchronisation, no_host_synchronisation
from tests.helpers import CLASSES, THREAT, batches, clocks, info, run_method, sgd, tiny_net, update
from tests.training.runs import BATCHES, tiny

PER_EPOCH = 4
SECOND_EPOCH = [*batches(PER_EPOCH), *batches(PER_EPOCH)]  # every sample twice, for methods that remember it


class RecordingTarget(Target):
    """Keeps the images of the weight update."""

    def descend(self, x: Tensor, **options: Any) -> Tensor:
        self.trained_on = x.detach().clone()
        return super().descend(x, **options)


def test_every_method_has_its_expectations() -> None:
    missing, stale = sorted(set(methods()) - set(EXPECTED)), sorted(set(EXPECTED) - set(methods()))
    assert not missing, f"add a row to tests/contracts/expectations.py for {', '.join(missing)}"
    assert not stale, f"remove from tests/contracts/expectations.py: {', '.join(stale)}"


@pytest.mark.parametrize("epsilon", [8 / 255, 2 / 255], ids=["full", "ramped"])
def test_training_perturbations_keep_to_the_threat_model(name: str, expects: Expected, epsilon: float) -> None:
    """Also when epsilon is still ramped up: the method is built for 8/255 and the step is of 2/255."""
    net = tiny_net()
    method, target, optimizer = build(name), RecordingTarget(net), sgd(net)
    threat, bound, largest = ThreatModel(epsilon), expects.radius * epsilon, 0.0
    for batch, clock in zip(SECOND_EPOCH, clocks(8, PER_EPOCH, method.replays), strict=True):
        for _ in range(method.replays):
            update(method, target, optimizer, batch, threat, clock)
            x, x_adv = batch[0], target.trained_on
            size = (x_adv - x).abs().max().item()
            assert size <= bound + 1e-6
            largest = max(largest, size)
            if expects.boxed:
                assert x_adv.min() >= 0
                assert x_adv.max() <= 1
    assert largest >= bound / 2, "the bound holds because nothing happens"


def test_passes_are_the_documented_ones(name: str, expects: Expected) -> None:
    for cost in costs(name):
        documented = expects.passes(cost.batch)
        assert cost.measured == documented, f"batch {cost.batch}"
        # Deeper convolutions: no weight gradient beyond those of the loss, be it in ascents or for a generator.
        assert cost.weight_gradients == {documented.backwards}


def test_target_counts_the_passes_that_are_made(name: str) -> None:
    for cost in costs(name):
        assert cost.counted == cost.measured, f"batch {cost.batch}"


class Cost(NamedTuple):
    """Of one update: index of the batch, passes as measured, images through them over those of the batch, passes as
    counted by Target, and weight gradients per layer.
    """

    batch: int
    measured: Passes
    in_batches: tuple[float, float, float]
    counted: Passes
    weight_gradients: set[int]


@functools.cache
def costs(name: str) -> list[Cost]:
    net, made = tiny_net(), []
    method, target, optimizer = build(name), Target(net), sgd(net)
    for batch, clock in zip(SECOND_EPOCH, clocks(8, PER_EPOCH, method.replays), strict=True):
        for _ in range(method.replays):
            target.passes = Passes()
            with ConvolutionCounter(net) as counter:
                update(method, target, optimizer, batch, THREAT, clock)
            counter.passes.forwards -= EXPECTED[name].double_backwards
            counter.images.forwards -= EXPECTED[name].double_backwards * len(batch[0])
            forwards, gradients, backwards = (images / len(batch[0]) for images in astuple(counter.images))
            in_batches = forwards, gradients, backwards - EXPECTED[name].double_backwards
            made.append(
                Cost(clock.batch, counter.passes, in_batches, target.passes, set(counter.weight_gradients.values()))
            )
    return made


# What ``list methods`` says of the cost, such as "(3+2/k)F (2+2/k)Bx 1B + generator, k = generator_every (20)": per
# update, x/k every k batches of an epoch, then what else runs or is kept, what the letters stand for, and remarks.
COST = re.compile(
    r"(?P<F>\S+)F (?P<Bx>\S+)Bx (?P<B>\S+)B(?P<double> \+ double backward)?"
    r"( \+ (generator|router|per-sample memory|two per-sample memories))?( per update)?"
    r"(?P<letters>(, \w = \w+ (\(\d+\)|/ batch size))*)( of pgd-at| updates a batch)?(; .*)?"
)


def registered_cost(name: str, batch: int) -> tuple[float, float, float]:
    """The cost that the registry gives for a batch of an epoch, under the settings of the table, in batches."""
    said = COST.fullmatch(methods()[name].passes)
    assert said, methods()[name].passes
    given = EXPECTED[name].settings
    given = given | given.get("method_args", {})
    values: dict[str, float] = {"q": CLASSES / 8}
    for letter, setting, default in re.findall(r"(\w) = (\w+) \((\d+)\)", said["letters"]):
        values[letter] = given.get(setting, int(default))
    values["due"] = batch % values.get("k", 1) == 0
    forwards, gradients, backwards = (eval(said[kind].replace("/k", "*due"), {}, values) for kind in ("F", "Bx", "B"))
    return forwards, gradients, backwards


def test_registered_cost_is_the_measured_one(name: str, expects: Expected) -> None:
    for cost in costs(name):
        assert cost.in_batches == registered_cost(name, cost.batch), f"batch {cost.batch}"
    assert ("double backward" in methods()[name].passes) == bool(expects.double_backwards)


def test_the_cost_of_law_from_its_start_is_the_registered_one() -> None:
    assert "2F where the reference is the start" in methods()["fgsm-law"].passes
    method, net = build_method("fgsm-law", info(), {"reference": "initial"}), tiny_net()
    target = Target(net)
    update(method, target, sgd(net), batches(1)[0], THREAT, clocks(1)[0])
    assert target.passes == Passes(2, 1, 2)


def test_registered_cost_names_the_defaults(name: str) -> None:
    for setting, default in re.findall(r"= (\w+) \((\d+)\)", methods()[name].passes):
        declared = methods()["pgd-at" if name == "awp" else name].settings[setting]
        assert declared in (int(default), None)  # None: the published value


def test_saved_state_continues_as_if_uninterrupted(name: str, tmp_path: Path) -> None:
    """Saved in the middle of the second epoch, and loaded into objects that began elsewhere."""
    stop = 6
    net, method = tiny_net(), build(name)
    optimizer = sgd(net)
    run_method(method, net, SECOND_EPOCH[:stop], epochs_of=PER_EPOCH, optimizer=optimizer)
    parts: dict[str, Any] = {"network": net, "method": method, "optimizer": optimizer}
    torch.save({key: part.state_dict() for key, part in parts.items()}, tmp_path / "state.pt")
    random_state = torch.get_rng_state()
    losses = run_method(method, net, SECOND_EPOCH, epochs_of=PER_EPOCH, optimizer=optimizer, start=stop)

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other_net, other_method = tiny_net(seed=1), build(name, seed=1)
    other_optimizer = sgd(other_net)
    for part, key in ((other_net, "network"), (other_method, "method"), (other_optimizer, "optimizer")):
        part.load_state_dict(state[key])
    torch.set_rng_state(random_state)
    assert losses == run_method(
        other_method, other_net, SECOND_EPOCH, epochs_of=PER_EPOCH, optimizer=other_optimizer, start=stop
    )
    assert_identical(net, other_net)
    assert_identical(method, other_method)


@pytest.fixture
def trained(
    name: str, expects: Expected, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainResult]:
    """Trains by the engine for two short epochs, whose updates run inside what ``watch`` makes.

    With all that an update may have: schedule, clipping, averaging, meters.
    """

    def train_watched(watch: Callable[[], AbstractContextManager[None]], **changes: Any) -> TrainResult:
        update = Trainer.update

        def watched(trainer: Trainer, batch: Batch) -> None:
            with watch():
                update(trainer, batch)

        monkeypatch.setattr(Trainer, "update", watched)
        recipe = tiny(
            name, epochs=2, eval_every=2, method_args=expects.settings, average=0.9, clip_gradient=1.0, **changes
        )
        return train(recipe, tmp_path / "run", data=digits, progress=False)

    return train_watched


def test_update_never_waits_for_the_device(expects: Expected, trained: Callable[..., TrainResult]) -> None:
    result = trained(no_host_synchronisation, device="cpu")
    assert result.cost["updates"] == 2 * BATCHES * expects.settings.get("replays", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_update_never_waits_for_the_gpu(trained: Callable[..., TrainResult]) -> None:
    calls = 0

    @contextmanager
    def debugging() -> Iterator[None]:
        nonlocal calls
        # Not in the first update of all: libraries set themselves up there.
        torch.cuda.set_sync_debug_mode("error" if calls else "default")
        calls += 1
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trained(debugging, device="cuda", cuda_graphs=False)
    assert calls >= 2 * BATCHES


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.item(),
        lambda t: bool(t > 0),
        lambda t: float(t),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.to("cpu"),
        lambda t: t.to(device="cpu", dtype=torch.float64),
        lambda t: t.numpy(),
        lambda t: (t > 0).nonzero(),
        lambda t: t[None][(t > 0)[None]],
        lambda t: t.reshape(1).index_put((torch.ones(1, dtype=torch.bool),), t),
        lambda t: t.repeat_interleave(torch.ones(1, dtype=torch.int64)),
        lambda t: t.reshape(1).long().bincount(),
        lambda t: torch.linalg.svd(t.reshape(1, 1)),
        lambda t: torch.linalg.cholesky(t.reshape(1, 1)),
        lambda t: t + torch.tensor(1.0),
        lambda t: max(t, t),
    ],
)
def test_waiting_would_be_noticed(wait: object) -> None:
    assert callable(wait)
    with pytest.raises(HostSynchronisation), no_host_synchronisation():
        wait(torch.ones(()))
    assert torch.ones(()).item() == 1  # and nothing is left behind


def test_method_leaves_the_network_ready_for_the_weight_update(name: str) -> None:
    net = tiny_net()
    method, target, optimizer = build(name), Target(net), sgd(net)
    for (x, y, index), clock in zip(SECOND_EPOCH, clocks(8, PER_EPOCH, method.replays), strict=True):
        step = Step(x, y, THREAT, clock, index)
        loss = method(target, step)
        assert loss.shape == ()
        assert all(p.grad is None for p in net.parameters()), "an ascent left weight gradients behind"
        assert all(p.requires_grad for p in net.parameters()), "weights are still frozen"
        assert net.training
        assert not x.requires_grad
        assert step.logits is not None
        assert step.logits.shape == (8, 10)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
        method.observe(step)
        optimizer.zero_grad()


def assert_identical(ours: nn.Module, theirs: nn.Module) -> None:
    a, b = dict(tensors(ours.state_dict())), dict(tensors(theirs.state_dict()))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def tensors(state: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested state, extra state such as an optimiser's included."""
    if isinstance(state, Tensor):
        yield prefix, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{prefix}.{key}")
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from tensors(value, f"{prefix}.{i}")
