"""The numbers behind the pictures: closed forms, and small networks that were trained to collapse and not to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.pgd import pgd
from headstart.attacks.scores import cross_entropy, margin
from headstart.core.threat import ThreatModel
from headstart.evaluation.inspection.attention import grad_cam, looked_at
from headstart.evaluation.inspection.falls import falling_epsilons
from headstart.evaluation.inspection.margins import margins
from headstart.evaluation.inspection.search import within, worst
from headstart.evaluation.inspection.surface import POINTS, loss_surface
from tests.attacks.digit_models import held_out, trained

NORMS = ("linf", "l2")
COLLAPSING = 0.3


class Linear(nn.Module):
    """Two classes, told apart by the mean of the pixels: logits 0 and 10 (mean - 1/2)."""

    def forward(self, x: Tensor) -> Tensor:
        z = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([torch.zeros_like(z), z], 1)


def bright(*means: float) -> tuple[Tensor, Tensor]:
    """Images (B, 1, 2, 2) of class 1, each of one brightness."""
    return torch.tensor(means).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), torch.ones(len(means)).long()


# -- the attack ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_every_image_has_a_ball_of_its_own(norm: str) -> None:
    model, (x, y) = trained("fgsm", 10, COLLAPSING), held_out(6)
    budget = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.3])
    threat = ThreatModel(0.1, norm)
    delta, reached = within(model, x, y, threat, budget, score="ce", generator=torch.Generator().manual_seed(0))
    assert (threat.size(delta) <= budget + 1e-6).all()
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    torch.testing.assert_close(reached, cross_entropy(model(x + delta), y), rtol=1e-4, atol=1e-5)


def test_it_goes_on_where_the_published_form_stops() -> None:
    model, (x, y), threat = trained("fgsm", 10, COLLAPSING), held_out(64), ThreatModel(0.15)
    _, reached = worst(model, x, y, threat, score="ce", generator=torch.Generator().manual_seed(0))
    stopped = pgd(model, x, y, threat, steps=20, generator=torch.Generator().manual_seed(0))
    assert reached.mean() > cross_entropy(model(stopped), y).mean()


# -- the loss surface ------------------------------------------------------------------------------------------------


def test_the_surface_of_a_linear_network_is_known() -> None:
    x, y = bright(0.6, 0.7)
    found = loss_surface(Linear(), x, y, ThreatModel(0.2), torch.Generator().manual_seed(0))
    assert found.loss.shape == (2, POINTS, POINTS)
    for mean, line, predicted in zip((0.6, 0.7), found.line, found.predicted, strict=True):
        expected = [math.log1p(math.exp(-10 * (mean - 0.2 * s - 0.5))) for s in found.along.tolist()]
        assert line.tolist() == pytest.approx(expected, abs=1e-3)
        slope = 2 / (1 + math.exp(10 * (mean - 0.5)))
        assert predicted.tolist() == pytest.approx([expected[0] + slope * s for s in found.along.tolist()], abs=1e-3)
    assert found.missed == pytest.approx(0, abs=1e-3), "the single step is the worst"
    assert found.ridge == pytest.approx(
        found.loss[:, POINTS // 2, -1].mean().item() - found.loss[..., -1].mean(0).min().item()
    )
    assert found.right[:, POINTS // 2, -1].tolist() == [False, False]
    assert found.right[:, POINTS // 2, 0].tolist() == [True, True]


@pytest.mark.parametrize("norm", NORMS)
def test_a_surface_without_a_budget_is_flat(norm: str) -> None:
    model, (x, y) = trained("fgsm", 10, COLLAPSING), held_out(4)
    found = loss_surface(model, x, y, ThreatModel(0.0, norm))
    torch.testing.assert_close(found.loss, found.loss[:, :1, :1].expand_as(found.loss))
    assert found.deviation == pytest.approx(0, abs=1e-5)


def test_the_surface_of_a_collapsed_network_is_broken_and_that_of_fgsm_sdi_is_not() -> None:
    x, y = held_out(100)
    threat = ThreatModel(COLLAPSING)
    broken, whole = (
        loss_surface(trained(method, 10, COLLAPSING), x, y, threat, torch.Generator().manual_seed(0))
        for method in ("fgsm", "fgsm-sdi")
    )
    assert broken.deviation > 2 * whole.deviation
    assert broken.missed > 2 * whole.missed
    assert broken.ridge > 3 * whole.ridge
    assert broken.right[:, POINTS // 2, -1].float().mean() < whole.right[:, POINTS // 2, -1].float().mean() - 0.1


# -- margins and falls -----------------------------------------------------------------------------------------------


def test_margins_and_predictions_of_a_linear_network() -> None:
    x, y = bright(0.9, 0.6, 0.4)
    found = margins(Linear(), x, y, ThreatModel(0.2))
    assert found.clean.tolist() == pytest.approx([4, 1, -1], abs=1e-4)
    assert found.attacked.tolist() == pytest.approx([2, -1, -3], abs=1e-3)
    assert found.confusion.tolist() == [[0, 0], [2, 1]]


@pytest.mark.parametrize(("norm", "unit"), [("linf", 1.0), ("l2", 2.0)])
def test_a_linear_network_falls_where_it_must(norm: str, unit: float) -> None:
    """A mean that is d too high falls to d in every one of four pixels: d in the maximum norm, 2 d in the Euclidean."""
    x, y = bright(0.4, 0.55, 0.6, 0.95)
    found = falling_epsilons(Linear(), x, y, ThreatModel(0.1 * unit, norm), torch.Generator().manual_seed(0))
    assert found[0] == 0, "wrong without attack"
    assert found[1:3].tolist() == pytest.approx([0.05 * unit, 0.1 * unit], abs=0.1 * unit / 32 + 1e-3)
    assert found[3] == torch.inf, "further than four times epsilon"


def test_images_that_fall_within_epsilon_are_those_that_pgd_fools() -> None:
    model, (x, y), threat = trained("fgsm", 10, COLLAPSING), held_out(64), ThreatModel(0.15)
    within_epsilon = falling_epsilons(model, x, y, threat, torch.Generator().manual_seed(0)) <= threat.epsilon
    x_adv = pgd(model, x, y, threat, steps=20, score="margin", generator=torch.Generator().manual_seed(1))
    fooled = margin(model(x_adv), y) > 0
    assert (within_epsilon == fooled).float().mean() >= 0.95


# -- where the network looks -----------------------------------------------------------------------------------------


def test_grad_cam_is_the_weighted_map() -> None:
    """One channel is the left half, one the right; the logits are their means, so each class looks at its own."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
            nn.init.ones_(self.first.weight)
            nn.init.ones_(self.last.weight)
            self.register_buffer("sides", torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).view(2, 1, 4))
            self.split = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            assert isinstance(self.sides, Tensor)
            return self.split(self.last(self.first(x)) * self.sides).mean((2, 3))

    x = torch.zeros(2, 1, 4, 4)
    x[0, :, :, :2], x[1, :, :, 2:] = 0.5, 0.5
    model = Halves().eval()
    assert looked_at(model, x) == "split"
    found = grad_cam(model, x, "split")
    assert found.predictions.tolist() == [0, 1]
    expected = (x > 0).float()[:, 0]
    torch.testing.assert_close(found.maps, expected)
    assert all(p.grad is None for p in model.parameters())


def test_a_network_of_tokens_has_no_map_to_look_at() -> None:
    patches = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert looked_at(patches.eval(), torch.zeros(1, 1, 8, 8)) is None
    assert looked_at(trained("fgsm", 10, COLLAPSING), torch.zeros(1, 1, 8, 8)) == "layer2"
