"""Methods with state of their own against their literal versions: same weights, batches and random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target
from headstart.core.threat import ThreatModel
from headstart.data import ImageSet, ResidentLoader
from headstart.errors import UserError
from headstart.methods import registry
from headstart.methods.registry import methods
from headstart.parts.losses import jensen_shannon
from headstart.parts.memory import SampleMemory, shifted
from headstart.training.average import WeightAverage
from tests.helpers import IMAGE_SHAPE, THREAT, Batch, batches, info, run_method, sgd, tiny_net
from tests.reference import literal_b
from tests.reference.literal import LiteralGenerator, copy_generator

build_method: Callable[..., Any] = registry.build_method
"""Typed for tests that read the parts by names of their own."""

TOLERANCE = 1e-6
EPS = THREAT.epsilon
EPOCHS, SAMPLES = 4, 21
# Three batches an epoch, the last one smaller, every epoch in another order.
DATA: list[list[Batch]] = []
for _epoch in range(EPOCHS):
    _x, _y, _i = (torch.cat(parts) for parts in zip(*batches(3, seed=5), strict=True))
    _order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(_epoch))
    DATA.append([(_x[rows], _y[rows], _i[rows]) for rows in _order.split(8)])
SHIFTS = [[torch.randint(0, 5, (8, 3), generator=torch.Generator().manual_seed(e)) for _ in range(3)] for e in range(4)]
for _epoch_shifts in SHIFTS:
    for _batch in _epoch_shifts:
        _batch[:, 2] %= 2


def task(threat: ThreatModel = THREAT, **overrides: Any) -> Any:
    return info(threat, **{"samples": SAMPLES, "updates": 3 * EPOCHS, "epochs": EPOCHS, "pad": 2, **overrides})


def run(
    method: Method,
    net: nn.Module,
    theirs: literal_b.Literal,
    threat: ThreatModel = THREAT,
    epochs: int = EPOCHS,
    moved: bool = False,
    after: Callable[[Step], None] = lambda step: None,
    data: list[list[Batch]] = DATA,
) -> None:
    """Train both and compare losses, weights and buffers after every update."""
    # A Jensen-Shannon divergence of 1e-3 is made of terms of 0.1 that cancel, and is then multiplied by 100.
    loss_tolerance = 1e-5 if getattr(method.loss, "divergence", None) is jensen_shannon else TOLERANCE
    target, optimizer = Target(net), sgd(net)
    for epoch in range(epochs):
        for b, (x, y, index) in enumerate(data[epoch]):
            geometry = SHIFTS[epoch][b][: len(x)] if moved else None
            step = Step(x, y, threat, Clock(3 * epoch + b, 3 * EPOCHS, epoch, EPOCHS, b), index, geometry)
            torch.manual_seed(100 * epoch + b)
            loss = method(target, step)
            loss.backward()
            optimizer.step()
            method.observe(step)
            optimizer.zero_grad()
            torch.manual_seed(100 * epoch + b)
            if isinstance(theirs, literal_b.SDIMemory):
                theirs.geometry = geometry
            expected = theirs.step(x, y, index, epoch, b)
            assert loss.item() == pytest.approx(expected.item(), abs=loss_tolerance)
            assert_same(net, theirs.net)
            after(step)


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def pair(epsilon: float = EPS) -> tuple[nn.Module, tuple[nn.Module, torch.optim.Optimizer, float]]:
    """A network, and what a literal version of a method is made from."""
    theirs = tiny_net()
    return tiny_net(), (theirs, sgd(theirs), epsilon)


def rows(memory: Any, n: int = SAMPLES) -> Tensor:
    """All rows as images."""
    c, h, w = IMAGE_SHAPE
    stored = memory.rows[:n].float() * (memory.unit or 1.0)
    return stored.view(n, h, w, c).permute(0, 3, 1, 2)


def close(a: Tensor, b: Tensor | Sequence[Tensor]) -> None:
    torch.testing.assert_close(a, b if isinstance(b, Tensor) else torch.stack(list(b)), rtol=0, atol=TOLERANCE)


# -- against the literal versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "s", "weight", "replaced", "large"),
    [(8 / 255, 0.6, 100.0, (0.1, 0.5), False), (16 / 255, 0.4, 20.0, (0.0, 1.0), True)],
)
def test_liet(epsilon: float, s: float, weight: float, replaced: tuple[float, float], large: bool) -> None:
    net, made = pair(epsilon)
    threat = ThreatModel(epsilon)
    method = build_method("liet", task(threat), {"template_every": 2})
    theirs = literal_b.LIET(*made, s=s, weight=weight, r=replaced, every=2, epochs=EPOCHS, large=large)
    run(method, net, theirs, threat)
    assert torch.equal(epsilon * method.init.templates, theirs.templates)


@pytest.mark.parametrize("box", [True, False])
def test_free(box: bool) -> None:
    ours, (theirs, optimizer, _) = pair()
    method = build_method("free", task(), {"replays": 3, "box": box})
    loop = literal_b.Free(theirs, optimizer, EPS, (8, *IMAGE_SHAPE), box)
    data = [batch for epoch in DATA for batch in epoch]
    losses = run_method(method, ours, data, epochs_of=3)
    expected = [loss.item() for x, y, _ in data for loss in loop.step(x, y, 3)]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same(ours, theirs)
    close(rows(method.init.memory, 8), loop.delta)


@pytest.mark.parametrize("box_start", [True, False])
def test_fgsm_bp(box_start: bool) -> None:
    net, made = pair()
    method = build_method("fgsm-bp", task(), {"box_start": box_start})
    theirs = literal_b.BP(*made)
    theirs.box_start = box_start
    run(method, net, theirs)
    close(rows(method.init.memory, 8), theirs.delta)


@pytest.mark.parametrize("name", ["fgsm-ep", "fgsm-mep", "fgsm-pco", "mep-cs"])
@pytest.mark.parametrize("compact", [True, False])
def test_per_sample_memory(name: str, compact: bool) -> None:
    settings: dict[str, Any] = {} if name == "fgsm-pco" else {"reset_every": 2}
    if name == "mep-cs":
        settings |= {"segments": [0, 5], "gamma": 0.01}
    net, made = pair()
    method = build_method(name, task(), {"compact": compact, **settings})
    kinds = {"fgsm-ep": literal_b.EP, "fgsm-mep": literal_b.MEP, "fgsm-pco": literal_b.PCO, "mep-cs": literal_b.MEPCS}
    theirs = kinds[name](*made)
    if compact:
        theirs.unit = EPS / 127
    if isinstance(theirs, literal_b.MEP):
        theirs.low_precision = compact
    if isinstance(theirs, literal_b.MEPCS):
        theirs.gate = literal_b.Gate(0.01, 1, 1, active=[2, 3])
    run(method, net, theirs)
    close(rows(method.init.memory), theirs.delta)
    if isinstance(theirs, literal_b.MEP):
        close(rows(method.init.momentum), theirs.v)
    if isinstance(theirs, literal_b.MEPCS):
        assert {-1, 1} <= set(theirs.gate.opened), "the comparison means something only if the gate acts both ways"


@pytest.mark.parametrize(("name", "kind"), [("fgsm-ep", literal_b.EP), ("fgsm-mep", literal_b.MEP)])
def test_box_start_leaves_what_is_remembered_unboxed(name: str, kind: type[literal_b.EP]) -> None:
    """On other crops every epoch: the images differ, so a remembered start leaves the box."""
    net, made = pair()
    method = build_method(name, task(), {"compact": False, "reset_every": 2, "box_start": True})
    theirs = kind(*made)
    theirs.box_start = True
    crops = [[(x.roll(epoch, 3), y, index) for x, y, index in DATA[epoch]] for epoch in range(EPOCHS)]
    run(method, net, theirs, data=crops)
    close(rows(method.init.memory), theirs.delta)


@pytest.mark.parametrize("compact", [True, False])
def test_memory_of_compact_rows_is_a_quarter(compact: bool) -> None:
    memory = build_method("fgsm-ep", task(), {"compact": compact}).init.memory
    assert memory.rows.element_size() == (1 if compact else 4)


def test_fgsm_pco_without_the_path_through_confidence() -> None:
    net, made = pair()
    theirs = literal_b.PCO(*made)
    theirs.through = False
    run(build_method("fgsm-pco", task(), {"compact": False, "through_confidence": False}), net, theirs, epochs=2)


def test_rs_cs() -> None:
    net, made = pair()
    settings = {"segments": [0, 5], "gamma": 0.02, "ratio": 4.0, "weight": 0.5}
    theirs = literal_b.RSCS(*made)
    theirs.gate = literal_b.Gate(0.02, 4, 0.5, active=[2, 3])
    run(build_method("rs-cs", task(), settings), net, theirs)
    assert set(theirs.gate.opened) & {-1, 1}


def test_the_gate_is_open_in_the_published_epochs() -> None:
    loss = build_method("mep-cs", task(epochs=110)).loss
    active = [e for e in range(110) if loss.open(Clock(epoch=e, epochs=110))]
    assert active == [*range(2, 99), 102, 103, 107, 108]


@pytest.mark.parametrize(("name", "kind"), [("fgsm-uap", literal_b.UAP), ("fgsm-cuap", literal_b.CUAP)])
@pytest.mark.parametrize("gradient", [None, "equation"])
def test_shared_perturbations(name: str, kind: type[literal_b.UAP], gradient: str | None) -> None:
    net, made = pair()
    method = build_method(name, task(), {"gradient": gradient} if gradient else {})
    radius = 1.25 * EPS
    theirs = kind(*made, radius * method.init.directions, radius)
    theirs.equation = gradient == "equation"
    run(method, net, theirs)
    close(radius * method.init.directions, theirs.u)
    close(method.init.momenta, theirs.v)
    assert (method.init.directions.abs() <= 1).all()


@pytest.mark.parametrize("gradient", ["published", "equation"])
def test_fgsm_fuap(gradient: str) -> None:
    net, made = pair()
    torch.manual_seed(0)
    method = build_method("fgsm-fuap", task(), {"groups": 6, "router_lr": 0.03, "gradient": gradient})
    radius = 1.25 * EPS
    theirs = literal_b.FUAP(*made, radius * method.init.directions, radius)
    theirs.equation = gradient == "equation"
    theirs.route, theirs.classify = nn.Linear(8, 6), nn.Linear(6, 10)
    theirs.route.load_state_dict(method.init.route.state_dict())
    theirs.classify.load_state_dict(method.init.classify.state_dict())
    parameters = [*theirs.route.parameters(), *theirs.classify.parameters()]
    theirs.router_optimizer = torch.optim.Adam(parameters, lr=0.03)
    chosen: set[int] = set()
    run(method, net, theirs, after=lambda step: chosen.update(step.notes["group"].tolist()))
    close(radius * method.init.directions, theirs.u)
    close(method.init.momenta, theirs.v)
    assert_same(method.init.route, theirs.route)
    assert len(chosen) > 1


@pytest.mark.parametrize(("reference", "threshold"), [("clean", 0.95), ("initial", 0.5)])
@pytest.mark.parametrize(("softmax_twice", "hole"), [(False, 4), (True, 0)])
def test_fgsm_law(reference: str, threshold: float, softmax_twice: bool, hole: int) -> None:
    net, made = pair()
    settings = {"reference": reference, "softmax_twice": softmax_twice, "cutout_size": hole, "threshold": threshold}
    method = build_method("fgsm-law", task(), settings)
    theirs = literal_b.LAW(*made, reference=reference, softmax_twice=softmax_twice, hole=hole)
    decisions: list[bool] = []

    def check(step: Step) -> None:
        enters = method.averages(step)
        assert enters is not None
        adversarial, other = theirs.correct
        decisions.append(enters.item())
        assert enters.item() == (adversarial < threshold * (other + (reference == "initial")))

    run(method, net, theirs, after=check)
    assert set(decisions) == {True, False}


def test_a_gated_average_moves_only_when_told() -> None:
    net = tiny_net()
    average, plain = WeightAverage(net, 0.9), WeightAverage(net, 0.9)
    for i in range(6):
        with torch.no_grad():
            for p in net.parameters():
                p += i + 1
        enters = torch.tensor(i % 2 == 0)
        average.update(enters)
        if enters:
            plain.update()
        for a, b in zip(average.module.parameters(), plain.module.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    assert average.state_dict()["updates"] == 3


@pytest.mark.parametrize("a", [5000 / 255, 0.5])
def test_fast_bat(a: float) -> None:
    net, made = pair()
    theirs = literal_b.FastBAT(*made, a=a, penalty=10.0)
    run(build_method("fast-bat", task(), {} if a > 1 else {"alpha": a}), net, theirs)
    assert theirs.active > 100


@pytest.mark.parametrize(
    ("name", "settings", "extra"),
    [
        ("fgsm-sdi", {}, None),
        ("fgsm-sdi", {"relative_alpha": 1.0}, None),
        ("fgsm-sdi", {"straight_through": True}, None),
        ("sdi-through", {}, None),
        ("sdi-memory", {}, None),
        ("sdi-pgi", {"weight": 3.0}, lambda z, z0, e: 3 * ((z - z0) ** 2).mean()),
        ("sdi-pgi", {"conditioning": "image+memory"}, lambda z, z0, e: 10 * ((z - z0) ** 2).mean()),
        ("sdi-liet", {}, lambda z, z0, e: 100 * (e + 1) / EPOCHS * literal_b.js(z, z0)),
    ],
)
@pytest.mark.parametrize("moved", [True, False], ids=["moved", "still"])
def test_sdi_and_its_variants(name: str, settings: dict[str, Any], extra: Any, moved: bool) -> None:
    remembers = name == "sdi-memory" or settings.get("conditioning") == "image+memory"
    net, made = pair()
    torch.manual_seed(3)
    method = build_method(name, task(), {"generator_width": 8, "generator_every": 2, **settings})
    generator = copy_generator(method.init.generator, LiteralGenerator(width=8))
    before = [p.clone() for p in generator.parameters()]
    kind = literal_b.SDIMemory if remembers else literal_b.SDI
    theirs = kind(*made, generator, extra, settings.get("relative_alpha", 0.5))
    theirs.box = method.ascent.box
    theirs.straight_through = name == "sdi-through" or settings.get("straight_through", False)
    run(method, net, theirs, moved=moved, epochs=3)
    assert_same(method.init.generator, generator)
    assert all((a != b).any() for a, b in zip(before, generator.parameters(), strict=True))
    if isinstance(theirs, literal_b.SDIMemory):
        assert torch.equal(rows(method.init.memory), torch.stack([theirs.memory[i] for i in range(SAMPLES)]))
        assert (method.init.memory.rows[SAMPLES:] == 0).all()


# -- memory ----------------------------------------------------------------------------------------------------------


def loader_of(pad: int) -> ResidentLoader:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 128, (12, 8, 10, 3), dtype=torch.uint8, generator=draw)
    labels = torch.zeros(12, dtype=torch.long)
    return ResidentLoader(ImageSet(pixels, labels, ("a",), "random"), 5, pad=pad)


def test_aligned_memory_follows_the_loader() -> None:
    """What was stored under one crop and flip comes back under another exactly where both saw the image."""
    loader = loader_of(pad=3)
    memory = SampleMemory(info(image_shape=(3, 8, 10), samples=12, pad=3), unit=1 / 255, aligned=True)
    for batch in loader.epoch(0):
        memory.write(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry), batch.x)
    whole = 0
    for batch in loader.epoch(1):
        read = memory.read(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry))
        seen = read != 0  # pixels of the images are all positive, the border is zero
        torch.testing.assert_close(read[seen], batch.x[seen])
        whole += int(seen.sum())
    assert whole / (12 * 3 * 8 * 10) > 0.4


def test_aligned_and_plain_memory_agree_without_augmentation() -> None:
    for aligned in (True, False):
        loader = loader_of(pad=0)
        memory = SampleMemory(info(image_shape=(3, 8, 10), samples=12), aligned=aligned)
        for batch in loader.epoch(0):
            memory.write(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry), batch.x)
        for batch in loader.epoch(1):
            read = memory.read(Step(batch.x, batch.y, THREAT, Clock(), batch.index, batch.geometry))
            assert torch.equal(read, batch.x)


def test_shifted_by_nothing_is_the_image() -> None:
    images = torch.rand(4, *IMAGE_SHAPE)
    none = torch.zeros(4, dtype=torch.long)
    assert torch.equal(shifted(images, none, none, none == 1), images)
    assert torch.equal(shifted(images, none, none, none == 0), images.flip(3))


def test_compact_memory_keeps_a_perturbation_to_within_half_a_unit() -> None:
    x, y, index = batches(1)[0]
    memory = SampleMemory(info(), unit=EPS / 127)
    step = Step(x, y, THREAT, Clock(), index)
    delta = THREAT.uniform(x)
    delta[0] = EPS
    delta[1] = -EPS
    memory.write(step, delta)
    read = memory.read(step)
    assert (read - delta).abs().max() <= EPS / 254 * 1.001
    assert read.abs().max() <= EPS * 1.000001


def test_momenta_of_any_size_keep_their_sign() -> None:
    x, y, index = batches(1)[0]
    memory = build_method("fgsm-mep", info()).init.momentum
    step = Step(x, y, THREAT, Clock(), index)
    tiny = torch.where(x > 0.5, 1e-12, -1e-12)
    memory.write(step, tiny)
    assert torch.equal(memory.read(step).sign(), tiny.sign())


# -- settings --------------------------------------------------------------------------------------------------------


def test_liet_takes_the_published_settings() -> None:
    for epsilon, classes, s, weight in [(8, 10, 0.6, 100), (8, 100, 0.8, 200), (8, 200, 0.6, 100), (16, 100, 0.4, 20)]:
        method = build_method("liet", task(ThreatModel(epsilon / 255), classes=classes))
        assert (method.ascent.label_smoothing, method.loss.weight) == (s, weight)
        assert method.ascent.project == (epsilon == 8)


@pytest.mark.parametrize(
    ("name", "settings", "overrides"),
    [
        ("free", {"replays": 0}, {}),
        ("fgsm-mep", {"reset_every": -1}, {}),
        ("fgsm-law", {"reference": "start"}, {}),
        ("fgsm-fuap", {}, {"features": 0}),
        ("sdi-pgi", {"conditioning": "labels"}, {}),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict[str, Any], overrides: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build_method(name, task(**overrides), settings)


def test_settings_that_a_method_hands_on() -> None:
    """All but those it chooses itself, with its own defaults before those of its base."""
    known = methods()
    sdi, trades = known["fgsm-sdi"].settings, known["trades"].settings
    assert known["sdi-through"].settings == {k: v for k, v in sdi.items() if k not in ("straight_through", "published")}
    assert known["sdi-pgi"].settings == {"weight": 10.0, **{k: v for k, v in sdi.items() if k != "published"}}
    assert known["trades-awp"].settings == {**trades, "gamma": 0.005, "warmup_epochs": None, "relative_alpha": 0.25}
    method = build_method("sdi-memory", info(), {"relative_alpha": 0.5, "generator_width": 4})
    assert (method.ascent.relative_alpha, method.init.conditioning) == (0.5, "image+memory")
    with pytest.raises(UserError, match="unknown setting of method sdi-memory: 'conditioning'"):
        build_method("sdi-memory", info(), {"conditioning": "image"})


def test_features_need_a_layer_to_read_them_from() -> None:
    with pytest.raises(UserError, match="needs a linear layer at its end"):
        Target(nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())).record_features()


OURS = {"liet", "fast_bat", "free", "fgsm_pgi", "fgsm_pco", "fgsm_sdi", "fgsm_uap", "fgsm_law", "converge_smooth"}
GROUP = [name for name, entry in methods().items() if entry.build.__module__.split(".")[-1] in OURS]


@pytest.mark.parametrize("name", GROUP)
def test_builds_and_trains_in_bf16(name: str) -> None:
    net = tiny_net()
    before = net.linear.weight.clone()
    losses = run_method(build_method(name, info()), net, batches(2), epochs_of=1, target=Target(net, bf16=True))
    assert all(torch.tensor(losses).isfinite())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())
    assert (net.linear.weight != before).any()
