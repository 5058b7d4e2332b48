"""Updates that are recorded and replayed as CUDA graphs are the updates; a method that promises too much is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Method, Step, Target
from headstart.core.method import Loss
from headstart.data import Batch
from headstart.errors import SettingError
from headstart.methods.registry import build_method
from headstart.parts.ascents import SignSteps
from headstart.parts.inits import Zero
from headstart.parts.losses import CrossEntropy, cross_entropy
from headstart.training import graphs
from headstart.training.update import Updater
from tests.contracts.conftest import build
from tests.cuda_graphs import Recorder
from tests.helpers import THREAT, batches, clocks, info, sgd, tiny_net

PER_EPOCH = 4
LAST = tuple(tensor[:6] for tensor in batches(PER_EPOCH)[-1])  # of another shape, and so recorded by itself
CPU = torch.device("cpu")
EPOCHS = [*batches(PER_EPOCH)[:-1], LAST] * 3  # every sample three times, for methods that remember it


def has_key(name: str) -> bool:
    """Past the first update of all, in which memories start."""
    x, y, index = EPOCHS[0]
    return build(name).graph_key(Step(x, y, THREAT, clocks(2)[-1], index)) is not None


def trained(method: Method, on: torch.device | None) -> tuple[dict[str, Tensor], list[float]]:
    """Network and method after three epochs of a rising epsilon, and the losses; graphs are recorded on the device."""
    net = tiny_net()
    target = Target(net)
    updater, losses = Updater(method, target, sgd(net, fused=True), graphs=on), []
    torch.manual_seed(5)
    for (x, y, index), clock in zip(EPOCHS, clocks(len(EPOCHS), PER_EPOCH, method.replays), strict=True):
        for r in range(method.replays):
            now = replace(clock, update=clock.update + r)
            threat = replace(THREAT, epsilon=THREAT.epsilon * now.fraction)
            ((loss, _),) = updater(Batch(x, y, index, None), threat, now)
            losses.append(loss.item())
    return {**net.state_dict(), **tensors_of(method)}, losses


def tensors_of(method: nn.Module) -> dict[str, Tensor]:
    return {f"method.{key}": value for key, value in method.state_dict().items() if isinstance(value, Tensor)}


def test_replayed_updates_are_the_updates(
    name: str,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "EAGER_UPDATES", 1)  # so that rare work, once an epoch, is replayed as well
    eager, losses = trained(build(name), None)
    replayed, their_losses = trained(build(name), CPU)
    assert (recorder.replayed > 0) == has_key(name)
    assert their_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(replayed, eager, rtol=1e-4, atol=1e-6)


def test_images_that_a_method_replaces_are_replaced_in_every_replay(
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "EAGER_UPDATES", 1)
    eager, replayed = (trained(build_method("fgsm-law", info(), {"cutout_size": 3}), on)[0] for on in (None, CPU))
    assert recorder.replayed > 0
    torch.testing.assert_close(replayed, eager, rtol=1e-4, atol=1e-6)


class Impatient(Loss):
    """A weight that follows the clock, and a promise that it does not."""

    clock_free = True

    def forward(self, target: Target, step: Step) -> Tensor:
        assert step.logits is not None
        return cross_entropy(step.logits, step.y) * (1 + step.clock.epoch)


class Waiting(CrossEntropy):
    clock_free = True

    def forward(self, target: Target, step: Step) -> Tensor:
        loss = super().forward(target, step)
        return loss if loss > 0 else -loss


@pytest.mark.usefixtures("recorder")
def test_a_method_that_promises_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EAGER_UPDATES", 1)
    (eager, _), (replayed, _) = (trained(Method(Zero(), SignSteps(), Impatient()), on) for on in (None, CPU))
    assert (eager["linear.weight"] - replayed["linear.weight"]).abs().max() > 1e-3
    with pytest.raises(SettingError, match="cannot be recorded"):
        trained(Method(Zero(), SignSteps(), Waiting()), CPU)
