"""An update keeps to the device of the network: tensors on ``meta`` have no values, and raise beside those of a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from headstart.core import Target
from headstart.data import Batch
from headstart.training.update import Updater
from tests.contracts.conftest import build
from tests.helpers import THREAT, batches, clocks, info, sgd, tiny_net

PER_EPOCH = 2


def test_updates_make_no_tensor_elsewhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "autocast", lambda self: nullcontext())  # which ``meta`` has not
    net, method = tiny_net().to("meta"), build(name, task=info(pad=1)).to("meta")
    updater = Updater(method, Target(net), sgd(net))
    clock_of = clocks(2 * PER_EPOCH, PER_EPOCH, method.replays)
    for clock, batch in zip(clock_of, batches(PER_EPOCH) * 2, strict=True):
        x, y, index = (tensor.to("meta") for tensor in batch)
        geometry = torch.zeros(len(y), 3, dtype=torch.int64, device="meta")
        for r in range(method.replays):
            ((loss, _),) = updater(Batch(x, y, index, geometry), THREAT, replace(clock, update=clock.update + r))
            assert loss.is_meta


def test_a_tensor_of_the_cpu_is_seen() -> None:
    with pytest.raises(RuntimeError, match="not on the expected device"):
        torch.rand(3, device="meta") + torch.rand(3)
