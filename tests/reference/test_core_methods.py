"""Every core method against its literal version: same weights, batches and random numbers, several updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Clock, Method, Passes, Step, Target
from headstart.errors import UserError
from headstart.methods.registry import build_method
from headstart.parts.ascents import SignSteps
from headstart.parts.generator import Generator, GeneratorInit, decay
from tests.helpers import IMAGE_SHAPE, THREAT, batches, clocks, info, run_method, sgd, tiny_net, update
from tests.reference import literal
from tests.reference.literal import LiteralGenerator, LiteralSDI, copy_generator

# Both sides call the same fp32 kernels and differ in how the loss and Adam's step are put together, by a rounding of
# 1e-7 (seen in the weights: 1.2e-7). A wrong clip, smoothing or mode of batch-norm shows at 1e-4 and above.
TOLERANCE = 1e-6
PER_EPOCH, EVERY = 4, 3  # two epochs of four batches; the generator moves at batches 0 and 3 of each

Settings = dict[str, Any]


def case(name: str, step: Callable[..., Tensor], settings: Settings, arguments: Settings) -> Any:
    label = "-".join([name, *(f"{key}={value}" for key, value in settings.items())])
    return pytest.param(name, settings, step, arguments, id=label)


@pytest.mark.parametrize(
    ("name", "settings", "step", "arguments"),
    [
        case("standard", literal.standard, {}, {}),
        case("standard", literal.standard, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("fgsm", literal.fgsm_at, {}, {}),
        case("fgsm", literal.fgsm_at, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("fgsm-rs", literal.fgsm_rs, {}, {}),
        case("fgsm-rs", literal.fgsm_rs, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("fgsm-rs", literal.fgsm_rs, {"relative_alpha": 0.7}, {"relative_alpha": 0.7}),
        case("n-fgsm", literal.n_fgsm, {}, {}),
        case("n-fgsm", literal.n_fgsm, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("n-fgsm", literal.n_fgsm, {"noise_scale": 1.0}, {"noise_scale": 1.0}),
        case("pgd-at", literal.pgd_at, {}, {}),
        case("pgd-at", literal.pgd_at, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("pgd-at", literal.pgd_at, {"steps": 3, "batch_norm": "eval"}, {"steps": 3, "attack_in_eval": True}),
    ],
)
def test_updates_are_the_literal_ones(
    name: str, settings: Settings, step: Callable[..., Tensor], arguments: Settings
) -> None:
    data, ours, theirs = batches(5), tiny_net(), tiny_net()
    torch.manual_seed(7)
    losses = run_method(build_method(name, info(), settings), ours, data)
    torch.manual_seed(7)
    optimizer = sgd(theirs)
    expected = [step(theirs, optimizer, x, y, THREAT.epsilon, **arguments).item() for x, y, _ in data]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("relative_alpha", [1.0, 0.5])
def test_fgsm_sdi_is_the_literal_loop(relative_alpha: float) -> None:
    data, ours, theirs = batches(8), tiny_net(), tiny_net()
    method = build_sdi(box=False, relative_alpha=relative_alpha)
    before = {name: tensor.clone() for name, tensor in generator_of(method).state_dict().items()}
    generator = copy_generator(generator_of(method), LiteralGenerator(width=8))
    loop = LiteralSDI(theirs, generator, relative_alpha=relative_alpha, every=EVERY, lr=0.05)
    losses = run_method(method, ours, data, epochs_of=PER_EPOCH)
    expected = [loop.step(x, y, i % PER_EPOCH).item() for i, (x, y, _) in enumerate(data)]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)
    assert_same_state(generator_of(method), generator)
    # The comparison means something only if the generator learned: four updates, counted anew in the second epoch.
    after = generator_of(method).state_dict()
    assert after["layers.1.num_batches_tracked"] == 4
    assert all((after[name] != before[name]).any() for name in before)


@pytest.mark.parametrize("conditioning", ["gradient", "image", "noise"])
def test_fgsm_sdi_whose_generator_sees_less_is_the_literal_loop(conditioning: str) -> None:
    data, ours, theirs = batches(8), tiny_net(), tiny_net()
    method = build_sdi(conditioning=conditioning, relative_alpha=1.0)
    generator = copy_generator(generator_of(method), LiteralGenerator(in_channels=3, width=8))
    loop = LiteralSDI(theirs, generator, sees=conditioning, every=EVERY, lr=0.05)
    torch.manual_seed(5)
    losses = run_method(method, ours, data, epochs_of=PER_EPOCH)
    torch.manual_seed(5)
    expected = [loop.step(x, y, i % PER_EPOCH).item() for i, (x, y, _) in enumerate(data)]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)
    assert_same_state(generator_of(method), generator)


@pytest.mark.parametrize(
    "settings",
    [{}, {"label_smoothing": 0.4, "box": True, "relative_alpha": 0.5, "generator_width": 8, "generator_every": 3}],
    ids=["alone", "against others"],
)
def test_fgsm_sdi_as_published_is_the_literal_loop(settings: Settings) -> None:
    """Whatever else is set, in a run too short for k = 20 by default, and where ascents are in another mode."""
    data, ours, theirs = batches(22, seed=1), tiny_net(), tiny_net()
    torch.manual_seed(3)
    method = build_method("fgsm-sdi", info(), {"published": True, **settings})
    generator = copy_generator(generator_of(method), LiteralGenerator())
    loop = LiteralSDI(theirs, generator, lr=0.05)
    losses = run_method(method, ours, data, target=Target(ours, ascent_batch_norm="eval"))
    expected = [loop.step(x, y, i).item() for i, (x, y, _) in enumerate(data)]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)
    assert generator_of(method).state_dict()["layers.1.num_batches_tracked"] == 2


def test_fgsm_sdi_defaults_are_the_published_values_but_for_the_step() -> None:
    method = build_method("fgsm-sdi", info(updates=43_010))
    assert isinstance(method.ascent, SignSteps)
    assert method.ascent.relative_alpha == 0.5
    init = init_of(method)
    assert (init.every, init.lr, init.schedule) == (20, 1e-3, "constant")
    assert sum(p.numel() for p in init.generator.parameters()) == 79_173
    assert sum(p.numel() for p in LiteralGenerator().parameters()) == 79_173
    group = init.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (5e-4, (0.9, 0.999))


def test_fgsm_sdi_boxes_when_told() -> None:
    batch = batches(1)[0]
    images = {}
    for box in (True, False):
        step = first_step(build_sdi(box=box), batch)
        assert step.delta is not None
        images[box] = step.x + step.delta
    assert images[True].min() >= 0
    assert images[True].max() <= 1
    assert images[False].min() < -THREAT.epsilon / 2
    assert images[False].max() > 1 + THREAT.epsilon / 2


@pytest.mark.parametrize(
    ("conditioning", "channels", "kth", "ordinary"),
    [
        ("image+gradient", 6, Passes(5, 4, 1), Passes(3, 2, 1)),
        ("image+memory", 6, Passes(4, 3, 1), Passes(2, 1, 1)),
        ("gradient", 3, Passes(5, 4, 1), Passes(3, 2, 1)),
        ("image", 3, Passes(4, 3, 1), Passes(2, 1, 1)),
        ("noise", 3, Passes(4, 3, 1), Passes(2, 1, 1)),
    ],
)
def test_fgsm_sdi_conditioning(conditioning: str, channels: int, kth: Passes, ordinary: Passes) -> None:
    method, net, data = build_sdi(conditioning=conditioning), tiny_net(), batches(2)
    seen: list[Tensor] = []
    generator_of(method).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    target, optimizer = Target(net), sgd(net)
    for batch, clock, cost, calls in zip(data, clocks(2), (kth, ordinary), (2, 1), strict=True):
        target.passes = Passes()
        seen.clear()
        update(method, target, optimizer, batch, THREAT, clock)
        assert target.passes == cost
        assert len(seen) == calls
        for h in seen:
            assert h.shape == (8, channels, *IMAGE_SHAPE[1:])
            assert not h.requires_grad
        if "image" in conditioning:
            assert torch.equal(seen[0][:, :3], batch[0])
        if "gradient" in conditioning or "memory" in conditioning:  # zero where nothing is remembered yet
            assert set(seen[0][:, -3:].unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_fgsm_sdi_as_published_trains_on_the_sign_step_where_the_generator_agrees_with_it() -> None:
    step = first_step(build_sdi(box=False, relative_alpha=1.0), batches(1)[0])
    assert step.delta0 is not None
    assert step.delta is not None
    assert step.grad0 is not None
    agrees = step.delta0 * step.grad0 > 0
    assert 0.2 < agrees.float().mean() < 0.8
    assert torch.equal(step.delta[agrees], THREAT.epsilon * step.grad0.sign()[agrees])
    opposes = step.delta0 * step.grad0 < 0
    assert (step.delta[opposes].abs() < THREAT.epsilon).all()


def test_fgsm_sdi_weight_update_does_not_reach_the_generator() -> None:
    """The published loop differentiates the target's loss through the generator and drops the result."""
    method, (x, y, index) = build_sdi(), batches(1)[0]
    step = Step(x, y, THREAT, Clock(batch=1), index)
    method(Target(tiny_net()), step).backward()
    assert all(p.grad is None for p in method.parameters())
    assert step.delta is not None
    assert not step.delta.requires_grad


@pytest.mark.parametrize(("updates", "every"), [(16, 1), (200, 1), (799, 3), (3_999, 19), (4_000, 20), (100_000, 20)])
def test_fgsm_sdi_period_leaves_200_generator_updates(updates: int, every: int) -> None:
    assert init_of(build_method("fgsm-sdi", info(updates=updates), {"generator_width": 4})).every == every


def test_generator_schedules() -> None:
    run = Clock(updates=43_010)  # 110 epochs of 391 batches
    at = {update: replace(run, update=update) for update in (0, 21_505, 39_099, 39_100, 41_054, 41_055, 43_009)}
    assert [decay("constant", clock) for clock in at.values()] == [1.0] * 7
    assert [decay("multi-step", clock) for clock in at.values()] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = [decay("cosine", clock) for clock in at.values()]
    assert cosine[:2] == pytest.approx([1, 0.5])
    assert cosine[-1] == pytest.approx(0, abs=1e-8)
    assert cosine == sorted(cosine, reverse=True)


def test_generator_schedule_sets_the_rate_of_its_optimizer() -> None:
    method, net = build_sdi(generator_every=1, generator_schedule="cosine", generator_lr=0.02), tiny_net()
    rates = []
    target, optimizer = Target(net), sgd(net)
    for batch, clock in zip(batches(4), clocks(4), strict=True):
        update(method, target, optimizer, batch, THREAT, clock)
        rates.append(init_of(method).optimizer.param_groups[0]["lr"])
    half = 0.5**0.5
    assert rates == pytest.approx([0.02, 0.01 * (1 + half), 0.01, 0.01 * (1 - half)])


@pytest.mark.parametrize(
    "settings",
    [{"conditioning": "labels"}, {"generator_schedule": "step"}, {"generator_every": 0}, {"generator_width": 0}],
)
def test_fgsm_sdi_refuses_bad_settings(settings: Settings) -> None:
    (value,) = settings.values()
    with pytest.raises(UserError, match=str(value)):
        build_method("fgsm-sdi", info(), settings)


def build_sdi(**settings: Any) -> Method:
    torch.manual_seed(3)  # of the generator's weights
    return build_method("fgsm-sdi", info(), {"generator_width": 8, "generator_every": EVERY, **settings})


def init_of(method: Method) -> GeneratorInit:
    assert isinstance(method.init, GeneratorInit)
    return method.init


def generator_of(method: Method) -> Generator:
    return init_of(method).generator


def first_step(method: Method, batch: Any) -> Any:
    net = tiny_net()
    return update(method, Target(net), sgd(net), batch, THREAT, Clock())[0]


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    """Weights and batch-norm buffers agree, in order; names may differ."""
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
