"""Two processes with half of every batch each, against one process with all of it. No batch-norm in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from headstart.core import Target
from headstart.methods.registry import methods
from tests.contracts.conftest import build
from tests.contracts.expectations import EXPECTED
from tests.contracts.test_methods import SECOND_EPOCH, tensors
from tests.helpers import info, run_method, tiny_net

pytestmark = pytest.mark.dist

WORLD = 2
PER_EPOCH = len(SECOND_EPOCH) // 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank: the state of network and method after two epochs, for every method of the table."""
    folder = tmp_path_factory.mktemp("ranks")
    names = [name for name in methods() if name in EXPECTED]
    torch.multiprocessing.spawn(train_on_half, (names, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def train_on_half(rank: int, names: list[str], folder: str) -> None:
    """One process: samples with index % 2 == rank, its own random numbers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    halves = [(x[rank::WORLD], y[rank::WORLD], index[rank::WORLD]) for x, y, index in SECOND_EPOCH]
    states = {}
    for name in names:
        net = tiny_net(batch_norm=False)
        method = build(name, task=info(samples=32, batch_size=4))
        target = Target(net, synchronised=DistributedDataParallel(net))
        torch.manual_seed(100 + rank)
        run_method(method, net, halves, epochs_of=PER_EPOCH, target=target)
        states[name] = {"network": net.state_dict(), "method": method.state_dict()}
    torch.save(states, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_state_is_the_same_everywhere(name: str, ranks: list[dict[str, Any]]) -> None:
    """Network, generator, its optimiser, tables: bit for bit, though every process drew its own random numbers.

    Rows of a process's own samples are saved as one table of all.
    """
    first, second = (dict(tensors(states[name])) for states in ranks)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("invariant", [name for name, row in EXPECTED.items() if row.split_invariant])
def test_half_a_batch_each_makes_the_same_update(invariant: str, ranks: list[dict[str, Any]]) -> None:
    net = tiny_net(batch_norm=False)
    run_method(build(invariant), net, SECOND_EPOCH, epochs_of=PER_EPOCH)
    for key, value in ranks[0][invariant]["network"].items():
        # fp32: the mean of two means of four is rounded unlike the mean of eight.
        torch.testing.assert_close(value, net.state_dict()[key], rtol=0, atol=1e-6)


def test_the_generator_moves(ranks: list[dict[str, Any]]) -> None:
    """What is the same everywhere is not what it was at the start."""
    start: nn.Module = build("fgsm-sdi")
    for key, value in start.state_dict().items():
        if key.endswith("weight"):
            assert not torch.equal(ranks[0]["fgsm-sdi"]["method"][key], value), key
