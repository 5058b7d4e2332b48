"""Regularised, masked and multi-step methods against their literal versions, and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import THREAT, Batch, batches, clocks, info, run_method, sgd, tiny_net, update
from tests.reference import literal_a
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.methods.aaer import AbnormalExamples
from headstart.methods.awp import AdversarialWeights
from headstart.methods.grad_align import GradientAlignment
from headstart.methods.guided import polar_factor
from headstart.methods.registry import build_method, methods
from headstart.recipes.reader import load_recipe

# In double precision: in single, methods that raise a divergence near its minimum, or weigh an error by 1,000, turn
# roundings into other signs. A wrong detail, such as a clip or a mode of batch-norm, shows at 1e-4 and above.
TOLERANCE = 1e-9
NAMES = [
    *("awp", "elle", "fgsm-ckpt", "fgsm-ga", "gat", "mart", "multi-grad", "n-aaer", "nuat", "pgd-at-awp"),
    *("rs-aaer", "ssat", "trades", "trades-awp", "zero-grad", "elle-a"),
]

Settings = dict[str, Any]
RS_AAER = {"noise": 1.0, "relative_alpha": 1.25, "project": True, "l2": 2.5, "l3": 1.5}
BENCHMARK_ELLE = {"weight": 1.0, "noise_scale": 1.0, "relative_alpha": 1.25, "box": True, "label_smoothing": 0.4}
N_AAER = {"noise": 2.0, "relative_alpha": 1.0, "project": False, "l2": 1.5, "l3": 0.15}


def case(name: str, step: Callable[..., Tensor], settings: Settings, arguments: Settings) -> Any:
    label = "-".join([name, *(f"{key}={value}" for key, value in settings.items())])
    return pytest.param(name, settings, step, arguments, id=label)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits stay in double precision where the library asks for single."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def double_batches(n: int) -> list[Batch]:
    return [(x.double(), y, index) for x, y, index in batches(n)]


def fresh_net() -> nn.Module:
    return tiny_net().double()


def fitted_net() -> nn.Module:
    """Fitted to the batches: some samples are classified correctly, and losses are curved."""
    net = fresh_net()
    run_method(build_method("standard", info()), net, double_batches(5) * 12, lr=0.1)
    return net


NETS = pytest.mark.parametrize("net", [fresh_net, fitted_net])


@pytest.mark.parametrize(
    ("name", "settings", "step", "arguments"),
    [
        case("zero-grad", literal_a.zero_grad, {}, {}),
        case("zero-grad", literal_a.zero_grad, {"quantile": 0.7, "label_smoothing": 0.4}, {"q": 0.7, "smoothing": 0.4}),
        case("multi-grad", literal_a.multi_grad, {}, {}),
        case("multi-grad", literal_a.multi_grad, {"samples": 5, "agreeing": 4}, {"n": 5, "t": 4}),
        case("multi-grad", literal_a.multi_grad, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("fgsm-ga", literal_a.grad_align, {}, {}),
        case("fgsm-ga", literal_a.grad_align, {"weight": 2.0}, {"weight": 2.0}),
        case("fgsm-ga", literal_a.grad_align, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("trades", literal_a.trades, {}, {}),
        case("trades", literal_a.trades, {"beta": 1.0, "steps": 3}, {"beta": 1.0, "steps": 3}),
        case("trades", literal_a.trades, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("mart", literal_a.mart, {}, {}),
        case("mart", literal_a.mart, {"beta": 6.0, "steps": 3}, {"beta": 6.0, "steps": 3}),
        case("rs-aaer", literal_a.aaer, {}, RS_AAER),
        case("rs-aaer", literal_a.aaer, {"label_smoothing": 0.4}, RS_AAER | {"smoothing": 0.4}),
        case("rs-aaer", literal_a.aaer, {"lambda3": 10.0}, RS_AAER | {"l3": 10.0}),
        case("n-aaer", literal_a.aaer, {}, N_AAER),
        case("elle", literal_a.Elle(), {}, {}),
        case("elle", literal_a.Elle(50.0, noise=2.0), {"weight": 50.0, "noise_scale": 2.0}, {}),
        case("elle", literal_a.Elle(), {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("elle", literal_a.Elle(1.0, benchmark=True), BENCHMARK_ELLE, {"smoothing": 0.4}),
        case("ssat", literal_a.ssat, {}, {}),
        case("ssat", literal_a.ssat, {"checkpoints": 5, "batch_norm": "train"}, {"c": 5, "attack_in_eval": False}),
        case("ssat", literal_a.ssat, {"ascent_label_smoothing": 0.4}, {"attack_smoothing": 0.4}),
        case("fgsm-ckpt", literal_a.ssat, {"label_smoothing": 0.4}, {"smoothing": 0.4}),
        case("pgd-at-awp", literal_a.pgd_at_awp, {}, {}),
        case("trades-awp", literal_a.trades_awp, {"warmup_epochs": 0}, {}),
        case("awp", literal_a.pgd_at_awp, {"gamma": 0.1, "method_args": {"steps": 2}}, {"gamma": 0.1, "steps": 2}),
    ],
)
@pytest.mark.usefixtures("double")
@NETS
def test_updates_are_the_literal_ones(
    name: str, settings: Settings, step: Callable[..., Tensor], arguments: Settings, net: Callable[[], nn.Module]
) -> None:
    data, ours, theirs = double_batches(5), net(), net()
    torch.manual_seed(7)
    losses = run_method(build_method(name, info(), settings), ours, data)
    torch.manual_seed(7)
    optimizer = sgd(theirs)
    expected = [step(theirs, optimizer, x, y, THREAT.epsilon, **arguments).item() for x, y, _ in data]
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)


@pytest.mark.usefixtures("double")
@NETS
@pytest.mark.parametrize(
    ("name", "settings", "distance", "weights", "arguments"),
    [
        ("gat", {"jump_at": 0.4}, literal_a.squared_distance, (10.0, 40.0), {}),
        ("gat", {"jump_at": 1.0, "weight": 3.0}, literal_a.squared_distance, (3.0, 3.0), {}),
        ("gat", {"label_smoothing": 0.4}, literal_a.squared_distance, (10.0, 10.0), {"smoothing": 0.4}),
        ("gat", {"ascent_label_smoothing": 0.4}, literal_a.squared_distance, (10.0, 10.0), {"attack_smoothing": 0.4}),
        ("nuat", {"ascent_label_smoothing": 0.4}, literal_a.nuclear_distance, (0.0, 2.5), {"attack_smoothing": 0.4}),
        ("nuat", {"ramp": 0.5}, literal_a.nuclear_distance, (0.0, 4.5), {}),
        ("nuat", {"ramp": 1.0, "weight": 4.0}, literal_a.nuclear_distance, (0.0, 2.0), {}),
        ("nuat", {"batch_norm": "train"}, literal_a.nuclear_distance, (0.0, 2.5), {"attack_in_eval": False}),
    ],
)
def test_guided_updates_are_the_literal_ones(
    name: str,
    settings: Settings,
    distance: literal_a.Distance,
    weights: tuple[float, float],
    arguments: Settings,
    net: Callable[[], nn.Module],
) -> None:
    """Two epochs of three batches: parity counts inside the epoch, the weight changes between them."""
    data, ours, theirs = double_batches(6), net(), net()
    torch.manual_seed(7)
    losses = run_method(build_method(name, info(), settings), ours, data, epochs_of=3)
    torch.manual_seed(7)
    optimizer, expected = sgd(theirs), []
    for i, (x, y, _) in enumerate(data):
        loss = literal_a.guided(theirs, optimizer, x, y, THREAT.epsilon, i % 3, weights[i // 3], distance, **arguments)
        expected.append(loss.item())
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)


@pytest.mark.usefixtures("double")
def test_elle_a_is_the_literal_one() -> None:
    """Long enough for errors that stand out; the weight wakes up and fades."""
    data, ours, theirs = double_batches(8) * 4, fresh_net(), fresh_net()
    method, reference = (
        build_method("elle-a", info(), {"weight": 10.0, "sensitivity": 1.5}),
        literal_a.Elle(largest=10.0, s=1.5),
    )
    torch.manual_seed(7)
    losses = run_method(method, ours, data)
    torch.manual_seed(7)
    optimizer = sgd(theirs)
    expected = [reference(theirs, optimizer, x, y, THREAT.epsilon).item() for x, y, _ in data]
    assert 10.0 in reference.weights
    assert 0.0 in reference.weights
    assert method.loss.weight.item() == pytest.approx(reference.weight)
    n, mean, deviations = method.loss.seen.tolist()
    assert n == len(reference.errors)
    assert mean == pytest.approx(sum(reference.errors) / n, rel=1e-9)
    assert deviations == pytest.approx(sum((e - mean) ** 2 for e in reference.errors), rel=1e-9)
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_trains_in_bf16(name: str) -> None:
    net = tiny_net()
    settings = {"warmup_epochs": 0} if name.endswith("awp") else {}
    losses = run_method(build_method(name, info(), settings), net, batches(2), target=Target(net, bf16=True))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("zero-grad", {"quantile": 1.5}),
        ("multi-grad", {"samples": 4, "agreeing": 2}),
        ("multi-grad", {"agreeing": 4}),
        ("nuat", {"ramp": 0.0}),
        ("ssat", {"checkpoints": 0}),
        ("awp", {"method": "no-such"}),
        ("awp", {"method_args": {"stepz": 3}}),
    ],
)
def test_refuses_bad_settings(name: str, settings: Settings) -> None:
    with pytest.raises(UserError):
        build_method(name, info(), settings)


# -- defaults that depend on the task ----------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "weight"), [(8, 0.2), (12, 0.632), (16, 2.0)])
def test_grad_align_weight(epsilon: int, weight: float) -> None:
    loss = build_method("fgsm-ga", info(ThreatModel(epsilon / 255))).loss
    assert loss.weight == pytest.approx(weight, rel=1e-3)


@pytest.mark.parametrize(("epsilon", "weight"), [(2, 1e3), (8, 1e3), (10, 5e3), (20, 5e3), (26, 1e4)])
def test_elle_weight(epsilon: int, weight: float) -> None:
    assert build_method("elle", info(ThreatModel(epsilon / 255))).loss.weight.item() == weight


def published_gat(epochs: int) -> list[float]:
    """lambda of every epoch: the published loop multiplies it after the epoch with index 85."""
    weight, weights = 10.0, []
    for epoch in range(epochs):
        weights.append(weight)
        if epoch == 85:
            weight *= 4
    return weights


def published_nuat_with_average(epochs: int) -> list[float]:
    """lambda of every epoch: the published loop adds a share of 4 after each."""
    weight, weights = 0.0, []
    for _ in range(epochs):
        weights.append(weight)
        weight += 4.0 / epochs
    return weights


@pytest.mark.parametrize(
    ("name", "weights"), [("gat", published_gat), ("nuat", published_nuat_with_average)], ids=["gat", "nuat"]
)
def test_weights_of_the_recipe_are_the_published_ones(name: str, weights: Callable[[int], list[float]]) -> None:
    """The recipe averages weights, so NuAT's lambda and ramp are those of the authors' variant that does."""
    recipe = load_recipe(f"cifar10/{name}")
    assert recipe.average > 0
    loss = build_method(name, info(epochs=100), recipe.method_args).loss
    ours = [loss.weight(Clock(epoch=epoch, epochs=100)) for epoch in range(100)]
    assert ours == pytest.approx(weights(100))


@pytest.mark.parametrize(
    ("name", "epsilon", "classes", "lambdas"),
    [
        ("rs-aaer", 8, 10, (1.0, 2.5, 1.5)),
        ("rs-aaer", 15, 10, (1.0, 7.0, 3.25)),
        ("rs-aaer", 8, 200, (1.0, 3.5, 1.5)),
        ("n-aaer", 12, 10, (1.0, 5.0, 0.55)),
        ("n-aaer", 4, 100, (1.0, 1.5, 0.15)),
        ("n-aaer", 64, 100, (1.0, 3.5, 0.5)),
    ],
)
def test_aaer_lambdas(name: str, epsilon: int, classes: int, lambdas: tuple[float, ...]) -> None:
    assert build_method(name, info(ThreatModel(epsilon / 255), classes=classes)).loss.weights == lambdas


def test_aaer_lambdas_can_be_set() -> None:
    assert build_method("rs-aaer", info(), {"lambda1": 2.0, "lambda3": 0.0}).loss.weights == (2.0, 2.5, 0.0)


@pytest.mark.parametrize(("epochs", "first"), [(200, 10), (30, 3), (5, 0)])
def test_trades_awp_warms_up(epochs: int, first: int) -> None:
    assert build_method("trades-awp", info(epochs=epochs)).warmup_epochs == first


def test_ssat_has_two_names() -> None:
    assert methods()["ssat"].build is methods()["fgsm-ckpt"].build


# -- particular to one method ------------------------------------------------------------------------------------


def test_grad_align_leaves_out_samples_without_gradient() -> None:
    """One half of the images is out of the network's sight; only the others count, and nothing is NaN."""
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3 * 8 * 8, 10))
    x, y, _ = batches(1)[0]
    x[:4] = -1.0  # every unit is off, also within the ball
    step = Step(x, y, THREAT, Clock())
    step.grad0, _ = Target(net).ascend(x, lambda z: F.cross_entropy(z, y))
    step.logits = net(x)
    torch.manual_seed(3)
    loss = GradientAlignment(1.0, 0.0)(Target(net), step)
    torch.manual_seed(3)
    eta = torch.empty_like(x).uniform_(-THREAT.epsilon, THREAT.epsilon)
    other, _ = Target(net).ascend(x + eta, lambda z: F.cross_entropy(z, y))
    cosine = F.cosine_similarity(step.grad0[4:].flatten(1), other[4:].flatten(1)).mean()
    assert loss.item() == pytest.approx((F.cross_entropy(step.logits, y) + 1 - cosine).item(), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("lowered", [[], [0, 1, 2], [0], [2]])
def test_aaer_term_needs_both_sets(lowered: list[int]) -> None:
    """Samples named in ``lowered`` lose loss; the term is zero unless some do and some do not."""
    y = torch.zeros(3, dtype=torch.int64)
    before, after = torch.zeros(3, 4), torch.zeros(3, 4)
    after[:, 0] = -1.0
    after[lowered, 0] = 3.0
    step = Step(torch.zeros(3, 1, 1, 1), y, THREAT, Clock(), logits0=before, logits=after.requires_grad_())
    loss = AbnormalExamples((1.0, 2.0, 0.5), 0.0)(Target(nn.Identity()), step)
    plain = F.cross_entropy(after, y)
    if len(lowered) in (0, 3):
        assert loss.item() == pytest.approx(plain.item())
    else:
        drop = F.cross_entropy(before[lowered], y[lowered]) - F.cross_entropy(after[lowered], y[lowered])
        expected = plain + len(lowered) / 3 * (2.0 * drop + 0.5 * (9.0 - 1.0))
        assert loss.item() == pytest.approx(expected.item())
    (grad,) = torch.autograd.grad(loss - plain, after)
    assert all((grad[i] != 0).any() == (len(lowered) == 1 and i in lowered) for i in range(3))


@pytest.mark.parametrize(("rows", "columns"), [(128, 10), (8, 10), (10, 10), (64, 200)])
def test_polar_factor_is_that_of_the_singular_value_decomposition(rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -4, columns)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    polar = polar_factor(matrix)
    torch.testing.assert_close(polar.double(), u @ vh, rtol=0, atol=1e-6)
    assert (polar * matrix).sum().item() == pytest.approx(s.sum().item(), rel=1e-5)


def test_polar_factor_of_equal_predictions_is_finite() -> None:
    assert torch.equal(polar_factor(torch.zeros(8, 10)), torch.zeros(8, 10))
    row = torch.ones(8, 10) / 80**0.5  # rank one
    torch.testing.assert_close(polar_factor(row), row)


def test_zero_grad_keeps_the_noise_where_the_gradient_is_small() -> None:
    net, method, batch = tiny_net(), build_method("zero-grad", info(), {"quantile": 1.0}), batches(1)[0]
    step, _ = update(method, Target(net), sgd(net), batch, THREAT, Clock())
    assert step.delta is not None
    assert step.delta0 is not None
    moved = (step.delta != step.delta0).flatten(1).sum(1)
    assert (moved <= 1).all()  # the largest entry alone


# -- weight perturbation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["fgsm-rs", "fgsm-ga", "gat", "nuat", "trades", "mart", "elle-a", "fgsm-sdi"])
def test_awp_wraps_any_composed_method(inner: str) -> None:
    """At gamma 0 the weights are those of the method itself, whatever its loss differentiates through."""
    data, ours, theirs = batches(4), tiny_net(batch_norm=False), tiny_net(batch_norm=False)
    losses = []
    for net, name, settings in [(ours, inner, {}), (theirs, "awp", {"method": inner, "gamma": 0.0})]:
        torch.manual_seed(3)
        method = build_method(name, info(), settings)
        method.loss = Unrandom(method.loss)
        torch.manual_seed(7)
        losses.append(run_method(method, net, data))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_same_state(ours, theirs, tolerance=1e-6)


class Unrandom(nn.Module):
    """A loss that draws the same random numbers at every call of an update, and does not move the caller's."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss, self.needs = loss, loss.needs

    def forward(self, target: Target, step: Step) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step.clock.update)
            loss: Tensor = self.loss(target, step)
            return loss

    def observe(self, step: Step) -> None:
        self.loss.observe(step)


@pytest.mark.parametrize("inner", ["fgsm-ga", "gat", "trades"])
def test_awp_takes_every_pass_of_the_loss_at_the_perturbed_weights(inner: str) -> None:
    """The descended loss is the inner loss of a network that is at w + v."""
    net, batch = tiny_net(batch_norm=False), batches(1)[0]
    method = build_method("awp", info(), {"method": inner, "gamma": 0.05})
    clock = replace(clocks(2)[1])
    step = Step(batch[0], batch[1], THREAT, clock)
    method.loss = Unrandom(method.loss)
    before = [p.detach().clone() for p in net.parameters()]
    loss = method(Target(net), step)
    at = [p.detach().clone() for p in net.parameters()]
    ratios = [((a - b).norm() / b.norm()).item() for a, b in zip(at, before, strict=True) if b.ndim > 1]
    assert ratios == pytest.approx([0.05] * len(ratios), rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(at, before, strict=True) if b.ndim == 1)
    again = replace(step)
    again.clean, again.logits = net(step.x), net(step.x + step.delta)
    assert loss.item() == pytest.approx(method.loss(Target(net), again).item(), abs=1e-6)
    loss.backward()
    method.observe(step)
    for p, b in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), b, rtol=0, atol=1e-6)


def test_awp_waits_for_its_warm_up() -> None:
    data, ours, theirs = batches(4), tiny_net(), tiny_net()
    task, wrapped = info(), build_method("pgd-at-awp", info(), {"warmup_epochs": 1, "steps": 1})
    plain = build_method("pgd-at", task, {"steps": 1})
    for epochs_of, same in [(4, True), (2, False)]:
        losses = []
        for net, method in [(ours, wrapped), (theirs, plain)]:
            torch.manual_seed(7)
            losses.append(run_method(method, net, data, epochs_of=epochs_of))
        assert (losses[0] == losses[1]) is same


def test_awp_refuses_methods_with_an_update_of_their_own() -> None:
    class Own(Method):
        """A method that overrides the update."""

    inner = build_method("fgsm", info())
    with pytest.raises(UserError, match="Own has an update of its own"):
        AdversarialWeights(Own(inner.init, inner.ascent, inner.loss), 0.01)


def test_awp_refuses_perturbations_that_depend_on_the_weights() -> None:
    method = build_method("awp", info(), {"method": "fgsm-pco"})
    with pytest.raises(UserError, match="differentiated too"):
        run_method(method, tiny_net(), batches(1))


def test_awp_rehearses_on_the_module_that_is_not_synchronised() -> None:
    net, seen = tiny_net(), []

    class Synchronised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return net(x)

    method = build_method("awp", info(), {"method": "fgsm"})
    target = Target(net, synchronised=Synchronised())
    update(method, target, sgd(net), batches(1)[0], THREAT, Clock())
    assert len(seen) == 1


def assert_same_state(ours: nn.Module, theirs: nn.Module, tolerance: float = TOLERANCE) -> None:
    """Weights and batch-norm buffers agree."""
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
