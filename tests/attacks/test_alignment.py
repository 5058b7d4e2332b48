"""PertAlign and local linearity: closed forms, a literal version, and nothing left behind in the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.attacks.alignment import cosine, local_linearity, pert_align
from headstart.core.threat import ThreatModel


def test_is_the_literal_cosine(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> None:
    found = pert_align(network, images, labels, threat)
    for x, y, value in zip(images[:, None], labels[:, None], found, strict=True):
        x.requires_grad_()
        (before,) = torch.autograd.grad(F.cross_entropy(network(x), y), x)
        point = (x + threat.epsilon * before.sign()).clamp(0, 1).detach().requires_grad_()
        (after,) = torch.autograd.grad(F.cross_entropy(network(point), y), point)
        expected = (before * after).sum() / before.norm() / after.norm()
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.min() < 1 - 1e-4


def test_is_one_where_nothing_bends(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    torch.testing.assert_close(pert_align(network, images, labels, ThreatModel(0.0)), torch.ones(len(images)))


def test_touches_nothing(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = images.clone()
    assert not pert_align(network, images, labels, threat).requires_grad
    assert torch.equal(images, x)
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_gradients_of_confident_predictions_count_in_full() -> None:
    a, b = torch.randn(2, 4, 3, 5, 5).unbind()
    torch.testing.assert_close(cosine(1e-25 * a, 1e-30 * b), F.cosine_similarity(a.flatten(1), b.flatten(1)))


def test_a_gradient_that_is_zero_has_no_direction() -> None:
    zero = torch.zeros(2, 3, 4, 4)
    assert torch.equal(cosine(zero, torch.ones_like(zero)), torch.zeros(2))


def test_local_linearity_is_the_literal_cosine(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    found = local_linearity(network, images, labels, threat, torch.Generator().manual_seed(0))
    eta = torch.empty_like(images).uniform_(-threat.epsilon, threat.epsilon, generator=torch.Generator().manual_seed(0))
    for x, y, noise, value in zip(images[:, None], labels[:, None], eta[:, None], found, strict=True):
        grads = []
        for point in (x, (x + noise).clamp(0, 1)):
            point = point.detach().requires_grad_()
            grads += torch.autograd.grad(F.cross_entropy(network(point), y), point)
        expected = (grads[0] * grads[1]).sum() / grads[0].norm() / grads[1].norm()
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.min() < 1 - 1e-4
    torch.testing.assert_close(local_linearity(network, images, labels, ThreatModel(0.0)), torch.ones(len(images)))
