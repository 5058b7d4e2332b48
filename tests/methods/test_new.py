"""SORA, TDAT and ATAS against their literal versions, and what is particular to each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target
from headstart.data import ImageSet, ResidentLoader
from headstart.errors import SettingError
from headstart.methods.atas import PaddedMemory
from headstart.methods.registry import build_method
from headstart.methods.tdat import published_floor
from tests.helpers import IMAGE_SHAPE, THREAT, Batch, batches, info, run_method, sgd, tiny_net, update
from tests.reference import literal_new

TOLERANCE = 1e-6
EPS = THREAT.epsilon
EPOCHS, SAMPLES = 4, 21
# Three batches an epoch, the last one smaller, every epoch in another order and with other crops and flips.
DATA: list[list[Batch]] = []
PLACES: list[list[Tensor]] = []
for _epoch in range(EPOCHS):
    _x, _y, _i = (torch.cat(parts) for parts in zip(*batches(3, seed=5), strict=True))
    _draw = torch.Generator().manual_seed(_epoch)
    _order = torch.randperm(SAMPLES, generator=_draw)
    DATA.append([(_x[rows], _y[rows], _i[rows]) for rows in _order.split(8)])
    _places = torch.randint(0, 5, (SAMPLES, 3), generator=_draw)
    _places[:, 2] %= 2
    PLACES.append(list(_places.split(8)))


def task(**overrides: Any) -> Any:
    return info(**{"samples": SAMPLES, "updates": 3 * EPOCHS, "epochs": EPOCHS, "pad": 2, **overrides})


def run(
    method: Method,
    theirs: Any,
    net: nn.Module,
    *,
    moved: bool = False,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Train both and compare losses and weights after every update."""
    target, optimizer = Target(net), sgd(net)
    for epoch in range(EPOCHS):
        for b, (x, y, index) in enumerate(DATA[epoch]):
            geometry = PLACES[epoch][b] if moved else None
            step = Step(x, y, THREAT, Clock(3 * epoch + b, 3 * EPOCHS, epoch, EPOCHS, b), index, geometry)
            torch.manual_seed(100 * epoch + b)
            loss = method(target, step)
            loss.backward()
            optimizer.step()
            method.observe(step)
            optimizer.zero_grad()
            torch.manual_seed(100 * epoch + b)
            theirs.geometry = geometry
            expected = theirs.step(x, y, index.tolist(), epoch, b)
            assert loss.item() == pytest.approx(expected.item(), abs=TOLERANCE)
            for (name, ours), other in zip(net.state_dict().items(), theirs.net.state_dict().values(), strict=True):
                torch.testing.assert_close(ours, other, rtol=0, atol=TOLERANCE, msg=lambda t, n=name: f"{n}: {t}")
            after()


def pair() -> tuple[nn.Module, tuple[nn.Module, torch.optim.Optimizer, float]]:
    """A network, and what a literal version of a method is made from."""
    theirs = tiny_net()
    return tiny_net(), (theirs, sgd(theirs), EPS)


# -- SORA --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_sora(smoothing: float) -> None:
    net, made = pair()
    method, theirs = build_method("sora", task(), {"label_smoothing": smoothing}), literal_new.Sora(*made)
    theirs.smoothing = smoothing
    seen = []

    def check() -> None:
        seen.append(theirs.linearity)
        assert method.ascent.linearity.item() == pytest.approx(theirs.linearity, abs=1e-6)

    run(method, theirs, net, after=check)
    assert min(seen) < 0.98, "the step is never cut"


def test_sora_asks_no_further_pass_for_the_second_gradient() -> None:
    net = tiny_net()
    method, target = build_method("sora", task()), Target(net)
    step, _ = update(method, target, sgd(net), DATA[0][0], THREAT, Clock())
    assert (target.passes.forwards, target.passes.input_gradients, target.passes.backwards) == (2, 1, 1)
    assert step.delta is not None
    assert step.delta.grad is not None


def test_sora_does_not_mind_a_loss_that_is_scaled() -> None:
    """As in the parts of an accumulated batch."""
    linearity = []
    for scale in (1.0, 0.25):
        net = tiny_net()
        method, target = build_method("sora", task()), Target(net)
        x, y, index = DATA[0][0]
        step = Step(x, y, THREAT, Clock(), index)
        torch.manual_seed(0)
        (scale * method(target, step)).backward()
        method.observe(step)
        linearity.append(method.ascent.linearity.item())
    assert linearity[0] == pytest.approx(linearity[1], abs=1e-7)
    assert linearity[0] != 0.99


@pytest.mark.parametrize(("linearity", "largest"), [(1.0, 2.0), (0.99, 2.0), (0.96, 1.0), (0.0, 0.04), (-1.0, 0.02)])
def test_the_step_of_sora_follows_the_linearity(linearity: float, largest: float) -> None:
    method = build_method("sora", task())
    method.ascent.linearity.fill_(linearity)
    x, y, index = DATA[0][0]
    step = Step(x * 0 + 0.5, y, THREAT, Clock(), index)
    method.perturb(Target(tiny_net()), step)
    assert step.delta is not None
    assert step.delta0 is not None
    moved = (step.delta - step.delta0).detach().abs() / EPS
    assert moved.max() <= largest * (1 + 1e-5)
    assert moved.max() > 0.9 * largest
    assert moved[moved > 0].mean() == pytest.approx(largest / 2, rel=0.05)  # uniform from 0


# -- TDAT --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_tdat(momentum: float) -> None:
    net, made = pair()
    method, theirs = build_method("tdat", task(), {"momentum": momentum}), literal_new.TDAT(*made)
    theirs.momentum = momentum

    def check() -> None:
        stored = method.init.memory.rows.view(-1, *IMAGE_SHAPE[1:], IMAGE_SHAPE[0]).permute(0, 3, 1, 2)
        torch.testing.assert_close(stored, theirs.carried, rtol=0, atol=TOLERANCE)

    run(method, theirs, net, after=check)


def test_labels_of_tdat_are_relaxed_to_the_floor() -> None:
    relaxation = build_method("tdat", task(epochs=110)).loss.relaxation
    gammas = [relaxation(Clock(epoch=e, epochs=110)) for e in range(110)]
    assert gammas[0] == pytest.approx(0.6 * math.tan(1))
    assert gammas == sorted(gammas, reverse=True)
    assert gammas[-1] == 0.15
    assert gammas[55] == pytest.approx(0.6 * math.tan(0.5))


@pytest.mark.parametrize(("classes", "floor", "weight"), [(2, 0.75, 0.6), (10, 0.15, 0.6), (100, 0.05, 0.05)])
def test_tdat_of_other_data(classes: int, floor: float, weight: float) -> None:
    method = build_method("tdat", task(classes=classes))
    assert published_floor(classes) == pytest.approx(floor)
    assert method.loss.weight == weight
    net = tiny_net(classes=classes)
    data = [(x, y % classes, index) for x, y, index in batches(2)]
    assert all(math.isfinite(loss) for loss in run_method(method, net, data))


# -- ATAS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "still"])
@pytest.mark.parametrize("compact", [True, False])
def test_atas(moved: bool, compact: bool) -> None:
    net, made = pair()
    c = 1e-3  # gradients are small here
    settings = {
        "warmup_epochs": 1,
        "reset_every": 2,
        "compact": compact,
        "c": c,
        "smallest_alpha": 0.45,
    }  # 0.5 would be 63.5 units
    method, theirs = build_method("atas", task(), settings), literal_new.ATAS(*made)
    theirs.unit, theirs.c, theirs.low = (EPS / 127 if compact else None), c, 0.45  # type: ignore[assignment]
    sizes: set[float] = set()

    def check() -> None:
        memory = method.init.memory
        stored = memory.rows.float().view(SAMPLES, 12, 12, 3).permute(0, 3, 1, 2) * (memory.unit or 1.0)
        torch.testing.assert_close(stored, theirs.table, rtol=0, atol=TOLERANCE)
        norms = torch.tensor(theirs.norms)
        torch.testing.assert_close(method.ascent.norms.rows.squeeze(1), norms, rtol=1e-4, atol=1e-9)
        sizes.update((theirs.scale / (1 + norms[norms > 0].sqrt() / c)).tolist())

    run(method, theirs, net, moved=moved, after=check)
    assert any(size < 0.45 for size in sizes)
    assert any(0.45 < size < 1.75 for size in sizes)


def test_atas_starts_anew_but_not_for_the_last_epoch() -> None:
    init: Any = build_method("atas", task(epochs=30), {"compact": False}).init
    x, y, index = DATA[0][0]
    drawn = []
    for epoch in range(30):
        before = init.memory.rows.clone()
        init(Target(tiny_net()), Step(x, y, THREAT, Clock(epoch=epoch, epochs=30), index))
        if not torch.equal(before, init.memory.rows):
            drawn.append(epoch)
    assert drawn == [0, 9, 19]
    assert 0.9 * EPS < init.memory.rows.abs().max() <= EPS


def test_a_visit_leaves_what_lies_outside_its_crop() -> None:
    memory = build_method("atas", task(), {"compact": False}).init.memory
    x, y, _ = DATA[0][0]
    step = Step(x, y, THREAT, Clock(), torch.arange(8), torch.tensor([[4, 0, 1]] * 8))
    before = memory.rows.fill_(7).clone()
    values = torch.rand_like(x)
    memory.write(step, values)
    assert torch.equal(memory.read(step), values)
    changed = (memory.rows != before).view(SAMPLES, 12, 12, 3)
    assert changed[:8, 4:12, :8].all()
    assert changed.sum() == values.numel()


def test_perturbations_follow_the_loader() -> None:
    """What was stored under one crop and flip comes back under another exactly where both lay, the border included."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 128, (12, 8, 10, 3), dtype=torch.uint8, generator=draw)
    images = ImageSet(pixels, torch.zeros(12, dtype=torch.long), ("a",), "random")
    loader = ResidentLoader(images, 5, pad=3)
    memory = PaddedMemory(info(image_shape=(3, 8, 10), samples=12, pad=3), unit=1 / 255)
    memory.rows.fill_(-1)
    for batch in loader.epoch(0):
        memory.write(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry), batch.x)
    whole = 0
    for batch in loader.epoch(1):
        read = memory.read(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry))
        seen = read >= 0
        torch.testing.assert_close(read[seen], batch.x[seen])
        whole += int(seen.sum())
    assert whole / (12 * 3 * 8 * 10) > 0.5


def test_atas_refuses_crops_of_random_scale() -> None:
    with pytest.raises(SettingError, match="random scale"):
        build_method("atas", task(rescaled=True))


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sora", "tdat", "atas"])
def test_trains_in_bf16(name: str) -> None:
    net = tiny_net()
    losses = run_method(build_method(name, info()), net, batches(2), target=Target(net, bf16=True))
    assert all(map(math.isfinite, losses))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sora", {"rate": 0.0}),
        ("tdat", {"relaxation": 1.0}),
        ("tdat", {"floor": 0.05}),
        ("tdat", {"momentum": 1.0}),
        ("atas", {"reset_every": 0}),
        ("atas", {"smallest_alpha": 2.0}),
    ],
)
def test_refuses_bad_settings(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        build_method(name, info(), settings)
