"""Muon: the steps it makes, on which parameters, and that recorded rates and two processes change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.training.muon import Muon, orthogonalised
from headstart.training.optim import make_optimizer
from tests.training.runs import tiny

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


class Network(nn.Module):
    """A filter that is wide, one that is tall, batch-norm, and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.norm, self.tall = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 20, 1)
        self.linear = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.tall(self.norm(self.wide(x)).relu()).relu().mean((2, 3)))


def descended(network: nn.Module, optimizer: torch.optim.Optimizer, updates: int) -> list[dict[str, Tensor]]:
    """The gradients of each update."""
    draw = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(updates):
        x, y = torch.rand(8, 2, 5, 5, generator=draw), torch.randint(0, 3, (8,), generator=draw)
        F.cross_entropy(network(x), y).backward()
        seen.append({name: p.grad.clone() for name, p in network.named_parameters()})  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    return seen


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    """Those that were not small beside the norm; and in the directions of the matrix itself."""
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), False)
    values = torch.linspace(0.3, 1, min(shape))
    made = orthogonalised(left * values @ right).float()
    assert made.shape == shape
    inside = left.T @ made @ right.T
    assert (inside.diagonal() > 0.6).all()
    assert (inside.diagonal() < 1.3).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.02


def test_a_literal_muon() -> None:
    """Filters as matrices with a row per output, the rest and the output layer as in SGD with Nesterov momentum."""
    network = Network()
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    momenta = {name: torch.zeros_like(p) for name, p in weights.items()}
    optimizer = Muon(network, list(network.parameters()), LR, momentum=MOMENTUM, weight_decay=DECAY)
    for gradients in descended(network, optimizer, 3):
        for name, grad in gradients.items():
            momenta[name] = MOMENTUM * momenta[name] + grad
            step = grad + MOMENTUM * momenta[name]
            if name in ("wide.weight", "tall.weight"):
                rows, columns = step.flatten(1).shape
                step = orthogonalised(step.flatten(1)).view(step.shape).float() * max(1, rows / columns) ** 0.5
            weights[name] = (1 - LR * DECAY) * weights[name] - LR * step
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], atol=1e-2, rtol=0)  # bfloat16 rounds either step
    assert not torch.equal(network.wide.weight, Network().wide.weight)


def test_a_rate_that_is_a_tensor_is_the_same_rate() -> None:
    """As where updates are recorded as CUDA graphs."""
    number, tensor = Network(), Network()
    optimizers = [make_optimizer(tiny(optimizer="muon", lr=LR), network) for network in (number, tensor)]
    for group in optimizers[1].param_groups:
        group["lr"] = torch.tensor(LR)
    for network, optimizer in zip((number, tensor), optimizers, strict=True):
        descended(network, optimizer, 2)
    for a, b in zip(number.parameters(), tensor.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_weights_stay_and_the_state_goes_on() -> None:
    network = Network()
    network.tall.requires_grad_(False)
    network.tall.eval()
    frozen = copy.deepcopy(network.tall.state_dict())
    whole = Muon(network, list(network.parameters()), LR, momentum=MOMENTUM, weight_decay=DECAY)
    gradients = {n: torch.randn_like(p) for n, p in network.named_parameters() if p.requires_grad}

    def step(network: nn.Module, optimizer: Muon) -> None:
        for name, p in network.named_parameters():
            p.grad = gradients[name].clone() if name in gradients else None
        optimizer.step()

    step(network, whole)
    resumed = copy.deepcopy(network)
    other = Muon(resumed, list(resumed.parameters()), 1.0, momentum=0.0, weight_decay=0.0)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    step(network, whole)
    step(resumed, other)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(network.tall.state_dict()[n], t) for n, t in frozen.items())


def test_rates_that_fall_with_depth_and_frozen_layers() -> None:
    """The groups of ``layer_decay`` are split in two, and keep their rates."""
    network = nn.Sequential()
    network.body = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)])
    network.linear = nn.Linear(4, 3)
    network.body[0].weight.requires_grad_(False)
    groups = [
        {"params": list(network.linear.parameters()), "lr": 1.0},
        {"params": list(network.body[1].parameters()), "lr": 0.5},
        {"params": [network.body[0].bias], "lr": 0.25},
    ]
    made = Muon(network, groups, 9.0, momentum=0.9, weight_decay=0.0).param_groups
    assert [(len(g["params"]), g["orthogonal"], g["lr"]) for g in made] == [
        (2, False, 1.0), (1, True, 0.5), (1, False, 0.5), (1, False, 0.25)
    ]  # fmt: skip
