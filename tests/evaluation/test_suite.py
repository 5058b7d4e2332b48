"""Suites: what counts as robust, what is reported, and each warning on a model built to deserve it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.pgd import usual_step
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.evaluate import evaluate_model
from headstart.evaluation.result import Evaluation
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.suites import ATTACKS, PGD, SUITES, Attack, BatchAttack, Suite, Task
from tests.attacks.attack_models import (
    BatchStatistics,
    Linear,
    Masked,
    Noisy,
    Probabilities,
    Quantised,
    StuckInTraining,
    linear_task,
)
from tests.evaluation.measuring import measure


def run(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float = 2 / 255, suite: str = "pgd", **more: Any
) -> Evaluation:
    return measure(model, x, y, ThreatModel(epsilon), suite, **more)


def has(result: Evaluation, words: str) -> bool:
    return any(words in warning for warning in result.warnings)


@dataclass(frozen=True)
class Scripted(Attack):
    """An attack whose adversarial examples are given: those of the images it knows, by their first pixel."""

    summary: str = "a test's attack"
    moves: dict[int, Tensor] = field(default_factory=dict)
    seen: list[list[int]] = field(default_factory=list)

    def settings(self, task: Task) -> str:
        return "scripted"

    def prepare(self, task: Task) -> BatchAttack:
        def attack(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
            ids = [round(pixel * 255) for pixel in x[:, 0, 0, 0].tolist()]
            self.seen.append(ids)
            return torch.stack([self.moves.get(i, image) for i, image in zip(ids, x, strict=True)])

        return attack


class SecondPixel(nn.Module):
    """Class 1 where the second pixel is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 1]
        return torch.stack([0.5 - pixel, pixel - 0.5], 1)


def numbered(n: int, value: float = 0.4) -> Tensor:
    x = torch.full((n, 3, 4, 4), value)
    x[:, 0, 0, 0] = torch.arange(n) / 255
    return x


def moved(i: int, to: float) -> Tensor:
    image = numbered(i + 1)[i]
    image[0, 0, 1] = to
    return image


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[int]]]:
    """A suite of four scripted attacks, two of each kind, on images 0.4 with epsilon 0.15; what each was given."""
    far = moved(3, 0.9)  # outside the ball: projected back to 0.55, still across
    too_far = moved(4, 0.9).sub(0)
    too_far[0, 0, 1] = float("nan")  # no perturbation at all
    moves = {
        "a": {0: moved(0, 0.52), 1: moved(1, 0.49)},
        "b": {0: moved(0, 0.52), 2: moved(2, 0.55)},
        "c": {2: moved(2, 0.55), 3: far, 4: too_far},
        "d": {3: far, 5: moved(5, 0.51)},
    }
    seen: dict[str, list[list[int]]] = {name: [] for name in moves}
    for name, table in moves.items():
        monkeypatch.setitem(
            ATTACKS, name, Scripted(chain="one" if name in "cd" else None, moves=table, seen=seen[name])
        )
    monkeypatch.setitem(SUITES, "scripted", Suite("a test's suite", ("a", "b", "c", "d")))
    return seen


def test_accounting(seen: dict[str, list[list[int]]]) -> None:
    y = torch.zeros(8, dtype=torch.int64)
    y[7] = 1  # wrong without attack
    result = run(SecondPixel(), numbered(8), y, 0.15, "scripted", batch_size=3)
    assert result.clean == 7 / 8
    # Each of the first two alone; the other two one after the other, over a pool of their own.
    assert result.attacks == {"a": 6 / 8, "b": 5 / 8, "c": 5 / 8, "d": 4 / 8}
    assert result.robust == 3 / 8
    assert result.broken_by == ["a", None, "b", "c", None, "d", None, "clean"]
    assert seen["a"] == seen["b"] == seen["c"] == [[0, 1], [2, 3], [4, 5], [6]]
    assert seen["d"] == [[0, 1, 4], [5, 6]], "batches are refilled with what the attack before left"


def test_attacks_are_not_called_where_nothing_is_left(seen: dict[str, list[list[int]]]) -> None:
    y = torch.ones(4, dtype=torch.int64)
    result = run(SecondPixel(), numbered(4), y, 0.15, "scripted")
    assert result.attacks == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert all(batches == [] for batches in seen.values())


def test_what_an_attack_returns_is_projected_before_it_counts(seen: dict[str, list[list[int]]]) -> None:
    result = run(SecondPixel(), numbered(6), torch.zeros(6, dtype=torch.int64), 0.05, "scripted")
    assert result.robust == 1.0


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_lists_known_attacks(name: str) -> None:
    assert set(SUITES[name].attacks) <= set(ATTACKS)
    assert SUITES[name].summary


def test_pgd_suite_matches_the_closed_form_of_a_linear_model() -> None:
    model, x, y = linear_task(60)
    epsilon = 2 / 255
    logits = model(x)
    towards = model.weight.detach().unsqueeze(0) - model.weight.detach()[y].unsqueeze(1)
    best = logits + epsilon * towards.abs().sum(2) - logits.gather(1, y.unsqueeze(1))
    best.scatter_(1, y.unsqueeze(1), float("-inf"))
    result = run(model, x, y, epsilon)
    assert result.clean == 1.0
    assert list(result.attacks) == ["fgsm", "pgd-10", "pgd-20", "pgd-50", "cw-20"]
    assert 0 < result.robust < 1
    assert result.attacks["cw-20"] == pytest.approx((best.amax(1) <= 0).float().mean().item(), abs=0.04)
    assert result.robust <= min(result.attacks.values())
    assert result.warnings == [SUITES["pgd"].caveat]


def test_json_has_the_contract_and_survives_a_round_trip(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    record = run(network, images, labels, suite="fgsm").to_json()
    contract = {"suite", "n", "epsilon", "norm", "clean", "robust", "attacks", "warnings", "seconds", "environment"}
    assert contract <= set(record)
    assert json.loads(json.dumps(record)) == record
    assert record["n"] == 40
    assert record["norm"] == "linf"
    assert record["clean"] == 35 / 40
    assert record["broken_by"].count("clean") == 5
    assert set(record["settings"]) == set(record["attacks"]) == {"fgsm"}
    assert all(isinstance(value, str) for value in record["environment"].values())


def test_uint8_and_float_images_give_the_same(network: nn.Module) -> None:
    x = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = network(x.float() / 255).argmax(1)
    first, second = run(network, x, y), run(network, x.double() / 255, y)
    assert first.broken_by == second.broken_by
    assert first.robust < 1


def test_the_model_and_the_random_state_are_left_as_they_were(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    network.train()
    network[1].eval()  # a batch norm the user has frozen
    network[0].weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    run(network, images, labels, suite="quick")
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()][:2] == [False, True]
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_is_restored_when_an_attack_fails(
    network: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Attacker, "__call__", fail)
    network.train()
    with pytest.raises(UserError, match="cpu has not enough memory for batches of 20: try batch_size=10"):
        run(network, images, labels, batch_size=20)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_an_enclosing_autocast_does_not_reach_the_evaluation(images: Tensor) -> None:
    kinds = []
    model = Linear(10)
    model.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    y = model(images).argmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(model, images, y)
    assert set(kinds) == {torch.float32, torch.float64}, "float64 in finite differences alone"


def test_precision_switches_are_strict_within_and_restored_after(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    inside = []
    network.register_forward_hook(lambda *_: inside.append(torch.backends.mkldnn.matmul.fp32_precision))  # type: ignore[attr-defined]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        run(network, images, labels, suite="fgsm")
        assert torch.get_float32_matmul_precision() == "medium"
        assert set(inside) == {"ieee"}
    finally:
        torch.set_float32_matmul_precision(before)


class WrongInBfloat16(nn.Module):
    """Right in float32; under autocast every prediction is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * (-1 if torch.is_autocast_enabled("cpu") else 1)


def test_what_only_the_search_takes_for_broken_is_attacked_again_in_float32(images: Tensor) -> None:
    model = WrongInBfloat16()
    y = model(images).argmax(1)
    strict, fast = run(model, images, y), run(model, images, y, search_precision="bf16")
    assert 0 < strict.robust < 1
    # Believing the search's success would end the attack at the clean image, and every sample would count as robust.
    assert fast.broken_by == strict.broken_by
    assert strict.precision == "float32"
    assert fast.precision == "bf16 search, float32 verdicts"


def test_the_step_fits_epsilon() -> None:
    pgd = PGD("", steps=20)
    assert [usual_step(ThreatModel(e / 255)) * 255 for e in (8, 12, 16)] == [2, 2, 2]
    assert usual_step(ThreatModel(0.3)) == 0.3 / 4
    assert usual_step(ThreatModel(1 / 255)) == 1 / 255 / 4
    assert usual_step(ThreatModel(0.05, "l2")) == 0.05 / 4
    against = [Task(nn.Identity(), ThreatModel(e / 255), 10, torch.device("cpu")) for e in (8, 64)]
    assert "steps of 2/255," in pgd.settings(against[0])
    assert "steps of 16/255 (epsilon/4)" in pgd.settings(against[1])


def test_no_perturbation_allowed_means_clean_accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    result = run(network, images, labels, 0.0)
    assert result.robust == result.clean == 35 / 40


def test_a_model_that_answers_nan_under_attack_is_not_robust(images: Tensor) -> None:
    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            off_grid = ((x * 255).round() / 255 - x).abs().amax((1, 2, 3)) > 1e-6
            return Linear(2)(x) * torch.where(off_grid, float("nan"), 1.0).unsqueeze(1)

    x = (images * 255).round() / 255
    result = run(Fragile(), x, Linear(2)(x).argmax(1), 0.3 / 255)
    assert result.clean == 1.0
    assert result.robust == 0.0


def test_progress_prints_one_line_per_attack_where_there_is_no_terminal(
    network: nn.Module, images: Tensor, labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_model(network, images, labels, ThreatModel(8 / 255), EvaluationSettings("pgd"))
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert [line.split()[0] for line in lines] == list(result.attacks)
    assert lines[-1].endswith(f"accuracy at most {result.robust:.2%}")
    run(network, images, labels)
    assert capsys.readouterr().err == ""


# Warnings ----------------------------------------------------------------------------------------------------------


def test_an_honest_model_gets_only_the_caveat_of_its_suite(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    for name in ("fgsm", "pgd", "quick"):
        result = run(network, images, labels, 8 / 255, name, total=40)
        assert result.warnings == [SUITES[name].caveat]
    assert SUITES["standard"].caveat is None
    assert "upper bound" in str(SUITES["quick"].caveat)


def test_warns_of_a_subset(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert has(run(network, images, labels, suite="fgsm", total=10_000), "40 of 10000 test images")


def test_warns_of_a_randomised_model(images: Tensor) -> None:
    model = Linear(10)
    assert has(run(Noisy(model), images, model(images).argmax(1), suite="fgsm"), "two forward passes")


def test_warns_of_batch_statistics(images: Tensor) -> None:
    model = BatchStatistics(Linear(10))
    result = run(model, images, model(images).argmax(1), suite="fgsm")
    assert has(result, "depends on the other images")
    assert not has(result, "two forward passes")


def test_warns_of_a_model_stuck_in_training_mode(images: Tensor) -> None:
    model = StuckInTraining(Linear(10))
    result = run(model, images, model(images).argmax(1), suite="fgsm")
    assert has(result, "stay in training mode after eval(): Linear, StuckInTraining")


def test_warns_of_probabilities(images: Tensor) -> None:
    model = Probabilities(Linear(10))
    assert has(run(model, images, model(images).argmax(1), suite="fgsm"), "probabilities instead of logits")


def test_warns_of_guessing(images: Tensor) -> None:
    y = (Linear(10)(images).argmax(1) + 1) % 10
    result = run(Linear(10), images, y, suite="fgsm")
    assert result.clean == result.robust == 0
    assert has(result, "guessing among 10 classes")


def test_warns_of_saturated_cross_entropy() -> None:
    # Margins far above 17 leave the softmax at exactly one; the budget is too small to break many.
    model, x, y = linear_task(60, classes=2, distance=3 / 255)
    with torch.no_grad():
        model.weight.mul_(1000)
        model.bias.mul_(1000)
    assert has(run(model, x, y, 1 / 255), "cross-entropy of 60 images counted robust is zero")
    assert not has(run(*linear_task(60, classes=2, distance=3 / 255), 1 / 255), "cross-entropy of")


@pytest.mark.parametrize("suite", ["fgsm", "pgd"])
def test_warns_of_zero_gradients(suite: str) -> None:
    linear, x, _ = linear_task(40, classes=2)
    model = Quantised(linear)
    result = run(model, x, model(x).argmax(1), 4 / 255, suite)
    assert has(result, "zero in every pixel of 100.0 % of the images")


@pytest.mark.slow
def test_warns_where_square_breaks_what_white_box_attacks_cannot() -> None:
    linear, x, _ = linear_task(12, classes=4)
    model = Quantised(linear)
    result = run(model, x, model(x).argmax(1), 16 / 255, "standard")
    assert result.attacks["fab-t"] - result.attacks["square"] > 2 / 12
    assert has(result, "Square, which uses no gradient, breaks")


def test_warns_where_fgsm_beats_pgd() -> None:
    model, x, y = linear_task(60, classes=2)
    # At the clean images the gradient is right, and anywhere else there is none.
    result = run(Masked(model, x, 1.0, 0.0), x, y)
    assert result.attacks["fgsm"] < 0.1
    assert result.attacks["pgd-50"] > 0.9
    assert has(result, "FGSM beats pgd-50")
    assert not has(result, "catastrophic overfitting")
    quick = run(Masked(*linear_task(60)[:2], 1.0, 0.0), *linear_task(60)[1:], suite="quick", epsilon=4 / 255)
    assert has(quick, "FGSM beats apgd-t")


def test_warns_of_catastrophic_overfitting() -> None:
    model, x, y = linear_task(60, classes=2)
    # At the clean images the gradient points the wrong way, so one step from there is worse than none.
    result = run(Masked(model, x, -1.0, 1.0), x, y)
    assert result.attacks["fgsm"] == 1.0
    assert result.attacks["pgd-50"] < 0.1
    assert has(result, "FGSM accuracy 100.0 % is far above pgd-50 accuracy")
    assert not has(result, "FGSM beats")


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((4, 3, 8, 8), 255.0)}, "between 255 and 255; they must lie in"),
        ({"x": torch.full((4, 3, 8, 8), -0.1)}, "pixels lie between -0.1"),
        (
            {"x": torch.zeros(4, 3, 8, 8).index_fill(0, torch.tensor(2), math.nan)},
            "image 2 has pixels that are not num",
        ),
        ({"x": torch.zeros(4, 3, 8, 8, dtype=torch.int32)}, "they must be uint8 or floats"),
        ({"x": torch.zeros(4, 192)}, r"of shape \(4, 192\)"),
        ({"y": torch.tensor([0, 1, 2, 10])}, "label 10 is outside the model's 10 classes"),
        ({"y": torch.tensor([0, 1, 2, -1])}, "label -1 is negative"),
        ({"y": torch.zeros(4)}, r"labels are torch.float32 of shape \(4,\)"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"must be int64 \(4,\)"),
        ({"x": torch.zeros(0, 3, 8, 8), "y": torch.zeros(0, dtype=torch.int64)}, "no images"),
        ({"suite": "standart"}, "did you mean 'standard'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"transfer_from": Linear(10)}, "transfer_from is for suite 'full'; suite 'fgsm' has no transfer attack"),
        ({"model": nn.Identity()}, r"returns \(4, 3, 8, 8\) for 4 images"),
        ({"model": nn.Flatten(0)}, r"returns \(768,\) for 4 images"),
        ({"model": Linear(1)}, "K >= 2"),
        ({"model": Linear(10).double()}, "torch.float64; evaluation is in float32"),
        ({"model": Linear(3), "suite": "standard"}, "the model has 3 classes; use suite 'pgd'"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "model": Linear(10), "x": torch.zeros(4, 3, 8, 8), "y": torch.zeros(4, dtype=torch.int64), "suite": "fgsm",
    }  # fmt: skip
    with pytest.raises(UserError, match=message) as caught:
        run(**{**arguments, **change})
    assert "\n" not in str(caught.value)


def test_logits_that_are_not_finite_are_refused() -> None:
    model = Linear(10)
    with torch.no_grad():
        model.bias[0] = math.inf
    with pytest.raises(UserError, match="not all finite"):
        run(model, torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
