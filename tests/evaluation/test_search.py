"""The network as attacks query it is the same function: folded batch-norm, bfloat16."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from headstart.attacks.scores import input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation import pilot
from headstart.evaluation.attacker import near_miss
from headstart.evaluation.search import Bfloat16, folded
from headstart.evaluation.suites import Task
from headstart.evaluation.verdict import verdict_of
from headstart.models import build_model
from tests.attacks.attack_models import Wrapped, linear_task
from tests.evaluation.measuring import measure


@pytest.fixture
def residual(images: Tensor) -> nn.Module:
    """The demo's network with batch-norm statistics unlike the initial ones, and all classes among its answers."""
    torch.manual_seed(0)
    model = build_model("small", 10).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.uniform_(-0.5, 0.5)
    model.linear.bias -= model(images).mean(0)
    return model


def labels_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def test_a_folded_copy_has_no_batch_norm_and_the_same_logits(
    residual: nn.Module, images: Tensor, threat: ThreatModel
) -> None:
    before = {name: value.clone() for name, value in residual.state_dict().items()}
    copy = folded(residual, images, labels_of(residual, images), threat)
    assert copy is not None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    with torch.no_grad():
        torch.testing.assert_close(copy(images), residual(images), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in residual.state_dict().items())


class Branching(Wrapped):
    """A forward pass that looks at the numbers, which tracing cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits if logits.sum() > 0 else logits + 1


class Lying(Wrapped):
    """The gradient is that of another function; the trace of the forward pass has it right."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(_Backwards.apply(x))


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Shared(nn.Module):
    """One convolution under two batch-norms: folding either would change the other path."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.BatchNorm2d(10)
        nn.init.constant_(self.two.weight, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(self.conv(x)).relu() + self.two(self.conv(1 - x))).mean((2, 3))


def test_what_cannot_be_folded_faithfully_is_left_alone(
    residual: nn.Module, images: Tensor, threat: ThreatModel
) -> None:
    y = torch.arange(40) % 10
    for model in (Branching(residual), Lying(residual), Shared(), nn.Sequential(nn.Flatten(), nn.Linear(192, 10))):
        assert folded(model.eval().requires_grad_(False), images, y, threat) is None


def test_evaluations_search_on_the_folded_copy_and_judge_by_the_model(residual: nn.Module, images: Tensor) -> None:
    y, threat = labels_of(residual, images), ThreatModel(12 / 255)
    result = measure(residual, images, y, threat, "light")
    assert result.folded
    plain = measure(Branching(residual), images, y, threat, "light")
    assert not plain.folded
    assert 0 < result.robust < 1
    assert abs(result.robust - plain.robust) <= 1 / 40
    assert result.clean == plain.clean == 1.0


def test_bfloat16_is_for_the_network_alone(network: nn.Module, images: Tensor) -> None:
    kinds = []
    network[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    x = images.requires_grad_()
    logits = Bfloat16(network)(x)
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert kinds == [torch.bfloat16]
    assert logits.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(logits, network(images), rtol=0.05, atol=0.05)


def test_a_traced_model_keeps_rounded_weights(residual: nn.Module, images: Tensor, threat: ThreatModel) -> None:
    """And answers, and has gradients, as with weights that each pass rounds."""
    copy = folded(residual, images, labels_of(residual, images), threat)
    assert isinstance(copy, GraphModule)
    search, y = Bfloat16(copy), labels_of(residual, images)
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert {p.dtype for p in search.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = input_gradient(copy, images, y, margin)
    assert all(torch.equal(a, b) for a, b in zip(input_gradient(search, images, y, margin), expected, strict=True))


class Tied(nn.Module):
    """A weight that the forward pass also reads as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.read = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.free(x)) / self.read.weight.norm()


def test_weights_that_are_read_elsewhere_stay_as_they_are() -> None:
    model = symbolic_trace(Tied())
    search = Bfloat16(model)
    assert {name for name, p in search.named_parameters() if p.dtype == torch.bfloat16} == {
        "model.free.weight",
        "model.free.bias",
    }
    x = torch.rand(2, 4)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = model(x)
    assert torch.equal(search(x), expected.float())


@pytest.mark.parametrize(
    ("precision", "said"), [("fp16", "did you mean 'bf16'"), ("tf32", "is for CUDA, not cpu; use bf16 or fp32")]
)
def test_search_precisions_that_do_not_exist_here_are_refused(precision: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        measure(*linear_task(4), ThreatModel(0.1), "fgsm", search_precision=precision)


class Blind(Wrapped):
    """Without a gradient in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.detach() if torch.is_autocast_enabled("cpu") else x)
        return logits


def test_bfloat16_is_taken_where_it_is_fast_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = linear_task(30)
    monkeypatch.setattr(pilot, "bf16_is_fast", lambda device: True)
    monkeypatch.setattr(pilot, "WORK", 0)
    task = Task(model, ThreatModel(0.02), 10, x.device)
    assert pilot.search_precision("standard", task, x, y) == "bf16"
    assert pilot.search_precision("pgd", task, x, y) == "fp32", "too short to be worth a pilot"
    assert pilot.search_precision("standard", replace(task, alone=False), x, y) == "fp32"
    blind = replace(task, model=Blind(model))
    lost, broken = pilot.lost_in_bf16(blind, x, y)
    assert 0 < lost <= broken <= 30
    assert pilot.search_precision("standard", blind, x, y) == "fp32"
    monkeypatch.setattr(pilot, "WORK", 10**12)
    assert pilot.search_precision("standard", task, x, y) == "fp32", "a network too small for it"


def test_what_a_record_says_of_the_precision(residual: nn.Module, images: Tensor) -> None:
    y, threat = labels_of(residual, images), ThreatModel(4 / 255)
    said = {p: measure(residual, images, y, threat, "fgsm", search_precision=p).precision for p in ("auto", "bf16")}
    assert said == {"auto": "float32", "bf16": "bf16 search, float32 verdicts"}


def test_near_misses_are_searched_again() -> None:
    y = torch.zeros(4, dtype=torch.int64)
    logits = torch.tensor([[1.0, 0.0], [0.02, 0.0], [0.01, 0.0], [0.0, 1.0]])
    rounded = torch.tensor([[1.03, 0.0], [0.03, 0.0], [0.0, 0.01], [0.0, 1.0]])
    believed, verdict = (verdict_of(z, torch.empty(4, 1, 1, 1), y) for z in (rounded, logits))
    assert near_miss(believed, verdict).tolist() == [False, True, True, False]
    assert not near_miss(verdict, verdict).any()
