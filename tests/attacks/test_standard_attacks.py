"""AutoAttack's inner loops, and PGD's shortcut, against the reference code and against the long way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.fab_projections import projection_linf
from torch import Tensor, nn

from headstart.attacks import fab, pgd
from headstart.attacks.autoattack import attack_of
from headstart.attacks.fab import to_hyperplane
from headstart.attacks.rows import chosen
from headstart.attacks.scores import fooled
from headstart.attacks.square import KEPT, State, square
from headstart.core.threat import ThreatModel
from tests.attacks.attack_models import Wrapped
from tests.attacks.digit_models import EPSILON, held_out, trained

TARGETS = 3


class Double(Wrapped):
    """In double precision inside, so that one image and several round alike."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.double()).float()


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    return Double(copy.deepcopy(trained("pgd-at")).double()).eval()


def right(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """The images among the first ``n`` held out that the model classifies correctly."""
    x, y = held_out(n)
    kept = ~fooled(model, x, y)
    return x[kept], y[kept]


def reference(model: nn.Module, name: str, norm: str, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    whole = AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, seed=0)
    whole.fab.targeted = True
    whole.fab.n_target_classes = whole.apgd_targeted.n_target_classes = TARGETS
    attack = {"apgd-t": whole.apgd_targeted, "fab-t": whole.fab, "apgd-ce": whole.apgd}[name]
    attack.loss = "dlr-targeted" if name == "apgd-t" else "ce"
    return torch.no_grad()(attack.perturb)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", EPSILON), ("l2", 0.6)])
def test_every_verdict_is_that_of_the_reference_code(robust: nn.Module, name: str, norm: str, epsilon: float) -> None:
    x, y = right(robust, 20)
    threat = ThreatModel(epsilon, norm)
    ours = attack_of(name, robust, threat, classes=TARGETS + 1)(x, y)
    theirs = reference(robust, name, norm, epsilon)(x, y)
    broken = fooled(robust, theirs, y)
    assert torch.equal(fooled(robust, ours, y), broken)
    assert 3 < broken.sum() < len(y) - 3
    assert (threat.size(ours - x) <= epsilon + 1e-5).all()
    assert ours.min() >= 0
    assert ours.max() <= 1


def test_newtons_method_projects_as_sorting_does() -> None:
    torch.manual_seed(0)
    x, w = torch.rand(200, 3, 8, 8).double(), torch.randn(200, 3, 8, 8).double()
    x[:, :, :3] = x[:, :, :3].round()  # pixels without room
    w[:, 0, 0] = 0
    c = torch.randn(200).double() * torch.logspace(-3, 3, 200)  # the last are out of reach
    flat = w.flatten(1)
    expected = projection_linf(x.flatten(1), flat, (flat * x.flatten(1)).sum(1) - c).view_as(x)
    step = to_hyperplane(ThreatModel(0.1), x, w, c)
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-9)
    reached = ((w * step).flatten(1).sum(1) + c).abs() < 1e-6 * c.abs()
    assert 50 < reached.sum() < 200


def test_fab_in_pieces_is_fab(robust: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = right(robust, 12)
    found = []
    for piece in (1, 2 * x[0].numel(), x.numel()):
        monkeypatch.setattr(fab, "PIECE", piece)
        found.append(fab.fab_t(robust, x, y, ThreatModel(EPSILON), targets=2, iterations=10))
    assert not torch.equal(found[0], x)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_rows_are_chosen_as_where_does() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    before = other.clone()
    for rows in (torch.tensor([True, False, True, True, False, False]), torch.ones(6) > 0, torch.ones(6) < 0):
        assert torch.equal(chosen(rows, one, other), torch.where(rows.view(-1, 1, 1, 1), one, other))
    assert torch.equal(other, before)


class Counting(Wrapped):
    """Counts the images that it is asked about."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits: Tensor = self.model(x)
        return logits


def test_square_asks_fewer_questions_and_finds_the_very_same(robust: nn.Module) -> None:
    x, y = right(robust, 20)
    whole = AutoAttack(robust, eps=EPSILON, seed=0)
    whole.square.n_queries = 500
    model, found = Counting(robust), []
    whole.square.predict = model
    for attack in (
        torch.no_grad()(whole.square.perturb),
        lambda x, y: square(model, x, y, ThreatModel(EPSILON), queries=500),
        lambda x, y: square(model, x, y, ThreatModel(EPSILON), queries=500, alone=True),
    ):
        found.append((attack(x, y), model.asked))
        model.asked = 0
    (theirs, asked), (ours, as_many), (remembering, fewer) = found
    broken = fooled(robust, theirs, y)
    assert 1 < broken.sum() < len(y) - 1
    for examples in (ours, remembering):
        assert torch.equal(fooled(robust, examples, y), broken)
        assert torch.equal(examples[broken], theirs[broken])
    assert as_many <= asked
    assert fewer < 0.6 * asked


def test_a_square_that_goes_on_ends_where_it_would_have(robust: nn.Module) -> None:
    x, y = right(robust, 20)
    threat, states = ThreatModel(EPSILON), list[State]()
    whole = square(robust, x, y, threat, queries=2 * KEPT + 50, alone=True, keep=states.append)
    assert [state.query for state in states] == [KEPT, 2 * KEPT]
    for state in states:
        rest = square(robust, x, y, threat, queries=2 * KEPT + 50, alone=True, state=state)
        assert torch.equal(rest, whole)


def test_images_are_followed_until_the_judge_is_fooled_too(robust: nn.Module) -> None:
    """A judge that is never fooled gets the point of the largest margin."""

    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(labels[: len(x)], 10).float()

    x, labels = right(robust, 12)
    same = labels == labels[0]
    x, labels = x[same], labels[same]
    threat = ThreatModel(2 * EPSILON)
    early = attack_of("apgd-ce", robust, threat, classes=10)(x, labels)
    late = attack_of("apgd-ce", robust, threat, classes=10, judge=Stubborn())(x, labels)

    def gap(z: Tensor) -> Tensor:
        logits = robust(z)
        return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - logits[:, labels[0]]

    broken = fooled(robust, early, labels)
    assert broken.any()
    assert torch.equal(fooled(robust, late, labels), broken)
    assert (gap(late)[broken] > gap(early)[broken]).all()


@pytest.mark.parametrize("steps", [7, 40])
@pytest.mark.parametrize("restarts", [1, 2])
def test_pgd_ends_cycles_early_with_the_very_same_examples(robust: nn.Module, steps: int, restarts: int) -> None:
    x, y = right(robust, 40)
    model, found = Counting(robust), []
    for cycles in (False, True):
        draw = torch.Generator().manual_seed(0)
        options: dict[str, Any] = {
            "steps": steps,
            "restarts": restarts,
            "alpha": EPSILON / 4,
            "generator": draw,
            "cycles": cycles,
        }
        found.append((pgd(model, x, y, ThreatModel(EPSILON), **options), model.asked))
        model.asked = 0
    (long_way, passes), (short, fewer) = found
    assert torch.equal(short, long_way)
    assert 3 < fooled(robust, short, y).sum() < len(y) - 3
    assert fewer <= passes  # in seven steps few samples, or none, come back to where they were
    assert steps == 7 or fewer < 0.7 * passes
