"""The threat model: each norm's geometry, and which methods may train for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Adam

from headstart.attacks import fgsm, pgd
from headstart.core import Target
from headstart.core.threat import NORMS, ThreatModel
from headstart.errors import UserError
from headstart.methods.registry import build_method, methods
from headstart.models import build_model
from tests.contracts.expectations import EXPECTED
from tests.helpers import batches, clocks, info, run_method, sgd, tiny_net, update

every_norm = pytest.mark.parametrize("norm", NORMS)
NO_GPU = not torch.cuda.is_available()
L2_METHODS = [name for name, entry in methods().items() if "l2" in entry.norms]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


@every_norm
def test_projection_is_the_nearest_point_of_the_ball(norm: str) -> None:
    threat = ThreatModel(0.3, norm)
    delta = gaussian(20, 3, 4, 4)
    inside, outside = 0.29 * threat.direction(delta), delta
    assert torch.equal(threat.project(inside), inside)
    nearest = threat.project(outside)
    torch.testing.assert_close(threat.size(nearest), torch.full((20,), 0.3))
    # No other point of the ball is nearer in the Euclidean sense, which is how both norms project.
    distance = (outside - nearest).flatten(1).norm(dim=1)
    for seed in range(50):
        other = threat.uniform(delta, generator=seeded(seed))
        assert ((outside - threat.project(nearest + 0.01 * other)).flatten(1).norm(dim=1) >= distance - 1e-6).all()
    assert torch.equal(threat.project(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


@every_norm
def test_no_step_of_length_one_raises_a_linear_function_more_than_the_direction(norm: str) -> None:
    threat = ThreatModel(1.0, norm)
    grad = gaussian(20, 3, 4, 4)
    step = threat.direction(grad)
    torch.testing.assert_close(threat.size(step), torch.ones(20))
    gain = (grad * step).flatten(1).sum(1)
    for seed in range(50):
        other = threat.uniform(grad, generator=seeded(seed))
        assert ((grad * other).flatten(1).sum(1) < gain).all()


@every_norm
@pytest.mark.parametrize("scale", [1e-35, 1e30])
def test_the_direction_of_a_tiny_or_huge_gradient_is_as_long(norm: str, scale: float) -> None:
    grad = gaussian(4, 3, 4, 4)
    threat = ThreatModel(1.0, norm)
    torch.testing.assert_close(threat.direction(scale * grad), threat.direction(grad))
    assert torch.equal(threat.direction(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("norm", "pixels", "mean"), [("linf", 1, 0.5), ("l2", 1, 0.5), ("l2", 2, 2 / 3), ("l2", 48, 48 / 49)]
)
def test_a_random_perturbation_is_uniform_in_the_ball(norm: str, pixels: int, mean: float) -> None:
    """In d dimensions the Euclidean size is distributed as u^(1/d), whose mean is d / (d + 1)."""
    threat = ThreatModel(0.5, norm)
    x = torch.zeros(20_000, 1, 1, pixels)
    delta = threat.uniform(x, 2.0, generator=seeded(0))
    assert delta.shape == x.shape
    size = threat.size(delta)
    assert size.max() <= 1 + 1e-6
    assert size.mean().item() == pytest.approx(mean, abs=0.01)
    assert delta.mean(0).abs().max() < 0.02, "it prefers no side"


@every_norm
def test_random_perturbations_come_from_the_generator_alone(norm: str) -> None:
    threat, x = ThreatModel(0.1, norm), torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    first, again, other = (threat.uniform(x, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(threat.uniform(x), threat.uniform(x))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert threat.uniform(x[:0]).shape == (0, 3, 8, 8)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="needs a CUDA device")]),
]


@every_norm
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.0123456789])
def test_an_epsilon_that_is_read_from_a_tensor_is_the_number_to_the_bit(norm: str, device: str, epsilon: float) -> None:
    threat = ThreatModel(epsilon, norm)
    kept = torch.tensor(0.7, dtype=torch.float64, device=device)
    read = threat.reading(kept)
    kept.fill_(epsilon)  # what counts is its value at use
    x = 0.1 * gaussian(50, 3, 8, 8).to(device)
    draws = [torch.Generator(device).manual_seed(0) for _ in range(2)]
    assert torch.equal(*(t.uniform(x, 1.25, generator=draw) for t, draw in zip((threat, read), draws, strict=True)))
    assert torch.equal(threat.project(x), read.project(x))
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(1.25 * threat.epsilon * x.to(dtype), 1.25 * read.epsilon * x.to(dtype))
    delta = x.clone().requires_grad_()
    assert torch.equal(*(torch.autograd.grad((t.project(delta) * x).sum(), delta)[0] for t in (threat, read)))
    assert threat.epsilon == epsilon, "it has its own"


@every_norm
def test_clipping_to_the_image_keeps_a_projected_perturbation_in_the_ball(norm: str) -> None:
    threat = ThreatModel(0.5, norm)
    x = torch.rand(50, 3, 8, 8, generator=seeded(0)).round()
    delta = threat.box(x, threat.project(gaussian(50, 3, 8, 8)))
    assert threat.size(delta).max() <= 0.5 + 1e-6
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    assert threat.size(delta).min() > 0.1


class Linear(nn.Module):
    """Two classes, logits (-w x, w x) about the grey image, which the box does not constrain here."""

    def __init__(self) -> None:
        super().__init__()
        self.w = gaussian(1, 3, 8, 8, seed=3)

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("attack", [fgsm, lambda *a: pgd(*a, steps=20, alpha=0.05)])
def test_attacks_find_the_best_euclidean_perturbation_of_a_linear_model(attack: Callable[..., Tensor]) -> None:
    model, threat = Linear(), ThreatModel(0.2, "l2")
    x = 0.5 + 0.3 * (torch.rand(60, 3, 8, 8, generator=seeded(1)) - 0.5)
    y = model(x).argmax(1)
    best = 0.2 * model.w / model.w.norm() * torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    falls = model(x + best).argmax(1) != y
    assert 0 < falls.sum() < len(y)
    x_adv = attack(model, x, y, threat)
    assert torch.equal(model(x_adv).argmax(1) != y, falls)
    # near the best point the loss is flat to the last bit of fp32, and PGD keeps the first of equal points
    torch.testing.assert_close(x_adv[~falls], (x + best)[~falls], atol=3e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((8, "linf"), r"epsilon is 8; it must be a pixel fraction between 0 and 1; did you mean 8/255\?"),
        ((-0.1, "linf"), "epsilon is -0.1; it must be a pixel fraction between 0 and 1$"),
        ((-8 / 255, "linf"), "epsilon is -8/255; it must be a pixel fraction between 0 and 1$"),
        ((-0.1, "l2"), "epsilon is -0.1; it must be a pixel fraction of at least 0$"),
        ((math.inf, "l2"), "epsilon is inf; it must be a pixel fraction of at least 0$"),
        ((math.nan, "l2"), "epsilon is nan"),
        ((0.1, "l1"), r"unknown norm 'l1'; did you mean 'l2'\? \(allowed: l2, linf\)"),
    ],
)
def test_what_is_no_threat_model_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ThreatModel(*arguments)
    assert "\n" not in str(caught.value)


def test_a_euclidean_epsilon_may_exceed_one() -> None:
    assert ThreatModel(3.0, "l2").epsilon == 3.0


# Methods -----------------------------------------------------------------------------------------------------------


class RecordingTarget(Target):
    """Keeps the images of the weight update."""

    def descend(self, x: Tensor, **options: Any) -> Tensor:
        self.trained_on = x.detach().clone()
        return super().descend(x, **options)


@pytest.mark.parametrize("name", L2_METHODS)
def test_methods_keep_to_the_euclidean_ball(name: str) -> None:
    threat, radius = ThreatModel(0.5, "l2"), EXPECTED[name].radius
    net, data = tiny_net(), [*batches(4), *batches(4)]
    torch.manual_seed(0)
    method = build_method(name, info(threat), EXPECTED[name].settings)
    target, optimizer, largest = RecordingTarget(net), sgd(net), 0.0
    for batch, clock in zip(data, clocks(8, 4, method.replays), strict=True):
        for _ in range(method.replays):
            update(method, target, optimizer, batch, threat, clock)
            size = threat.size(target.trained_on - batch[0])
            assert size.max() <= radius * threat.epsilon + 1e-5
            assert target.trained_on.min() >= 0
            assert target.trained_on.max() <= 1
            largest = max(largest, size.max().item())
    assert largest >= radius * threat.epsilon / 3, "the bound holds because nothing happens"


@pytest.mark.parametrize("name", [name for name in methods() if name not in L2_METHODS])
def test_methods_of_the_maximum_norm_refuse_another(name: str) -> None:
    with pytest.raises(UserError, match=f"method {name} trains for norm linf, not 'l2' .*fgsm-rs.*pgd-at") as caught:
        build_method(name, info(ThreatModel(0.5, "l2")), EXPECTED[name].settings)
    assert "\n" not in str(caught.value)


def test_awp_refuses_for_the_method_inside() -> None:
    with pytest.raises(UserError, match="method fgsm-sdi trains for norm linf"):
        build_method("awp", info(ThreatModel(0.5, "l2")), {"method": "fgsm-sdi"})


def test_euclidean_training_makes_digits_robust() -> None:
    """FGSM-RS and PGD-AT against plain training, in a ball that plain training does not withstand."""
    threat = ThreatModel(0.8, "l2")
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target)
    data = list(zip(images[:768].split(64), labels[:768].split(64), torch.arange(768).split(64), strict=True))
    x, y = images[1000:1200], labels[1000:1200]
    accuracy = {}
    for name, settings in (("standard", {}), ("fgsm-rs", {}), ("pgd-at", {"steps": 2, "relative_alpha": 0.75})):
        torch.manual_seed(0)
        net = build_model("small", 10, 1, {"widths": [8, 16]})
        task = info(threat, image_shape=(1, 8, 8), batch_size=64, samples=768, updates=96, epochs=8)
        run_method(
            build_method(name, task, settings),
            net,
            data * 8,
            threat,
            epochs_of=12,
            optimizer=Adam(net.parameters(), 0.003),
        )
        net.eval().requires_grad_(False)
        x_adv = pgd(net, x, y, threat, steps=10, alpha=threat.epsilon / 4, generator=seeded(0))
        accuracy[name] = (net(x_adv).argmax(1) == y).float().mean().item()
    assert accuracy["fgsm-rs"] > accuracy["standard"] + 0.1
    assert accuracy["pgd-at"] > accuracy["standard"] + 0.1
