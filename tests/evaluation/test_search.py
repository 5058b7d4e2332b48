"""The network as attacks query it is the same function: folded batch-norm, remembered answers, bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from headstart.attacks.remembering import Remembering
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.search import Bfloat16, folded
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


def counted(model: nn.Module) -> list[int]:
    """Sizes of the batches that the model is given from now on."""
    sizes: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    return sizes


def test_no_image_is_classified_twice(network: nn.Module, images: Tensor) -> None:
    sizes = counted(network)
    remembering = Remembering(network)
    expected = network(images).detach()
    sizes.clear()
    torch.testing.assert_close(remembering(images), expected)
    assert torch.equal(remembering(images[5:9].flip(0)), remembering(images)[5:9].flip(0))
    changed = images[:3].clone()
    changed[1, 2, 7, 7] = torch.nextafter(changed[1, 2, 7, 7], torch.tensor(2.0))
    remembering(changed)
    twice = remembering(torch.cat([changed, changed]))
    assert torch.equal(twice[:3], twice[3:])
    assert sizes == [40, 1], "only the image of which one bit is another"
    assert remembering(images[:0]).shape == (0, 10)


def test_answers_are_copies_and_old_ones_are_forgotten(network: nn.Module, images: Tensor) -> None:
    remembering = Remembering(network, capacity=50)
    remembering(images).fill_(0)  # Square writes into the logits it is given
    torch.testing.assert_close(remembering(images), network(images))
    sizes = counted(network)
    remembering(images / 2)
    torch.testing.assert_close(remembering(images), network(images))
    assert sizes[:2] == [40, 40]


def test_square_asks_fewer_questions_and_finds_the_same(images: Tensor) -> None:
    torch.manual_seed(0)
    grey = images[:20, :1].contiguous()
    network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
    network.requires_grad_(False)[-1].weight.mul_(4)
    y, sizes, found = labels_of(network, grey), counted(network), []
    for model in (network, Remembering(network)):
        square = SquareAttack(model, eps=0.1, n_queries=1500, seed=0, resc_schedule=True)
        found.append((square.perturb(grey, y), sum(sizes)))
        sizes.clear()
    (plain, all_rows), (remembered, rows) = found
    right = labels_of(network, plain) == y
    assert 0 < right.sum() < 20
    assert torch.equal(labels_of(network, remembered) == y, right)
    assert rows < 0.4 * all_rows


def test_bfloat16_is_for_the_network_alone(network: nn.Module, images: Tensor) -> None:
    kinds = []
    network[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    x = images.requires_grad_()
    logits = Bfloat16(network)(x)
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert kinds == [torch.bfloat16]
    assert logits.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(logits, network(images), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("precision", "said"), [("fp16", "did you mean 'bf16'"), ("tf32", "is for CUDA, not cpu; use bf16 or fp32")]
)
def test_search_precisions_that_do_not_exist_here_are_refused(precision: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        measure(*linear_task(4), ThreatModel(0.1), "fgsm", search_precision=precision)
