"""The attacks on a CUDA device: the verdicts of the CPU, and no waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks import fgsm, pgd
from headstart.core.threat import ThreatModel
from tests.attacks.attack_models import linear_task
from tests.evaluation.measuring import measure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    """Any wait for the device within the test is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def on_gpu(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    return network.cuda().to(memory_format=torch.channels_last), images.cuda(), labels.cuda()


def test_nothing_waits_for_the_device(
    on_gpu: tuple[nn.Module, Tensor, Tensor], threat: ThreatModel, no_synchronisation: None
) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    for score in ("ce", "margin"):
        x_adv = pgd(*on_gpu, threat, steps=3, score=score, generator=generator)
        assert x_adv.is_cuda
    fgsm(*on_gpu, threat)


@pytest.mark.parametrize("suite", ["pgd", "standard"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_verdicts_are_those_of_the_cpu(suite: str, precision: str) -> None:
    # On a linear model with two or more classes every attack of a suite finds the same samples, whatever its start.
    model, x, y = linear_task(30, classes=2 if suite == "pgd" else 10)
    threat = ThreatModel(2 / 255)
    here = measure(model, x, y, threat, suite)
    there = measure(model, x, y, threat, suite, device="cuda", search_precision=precision)
    assert there.broken_by.count(None) == here.broken_by.count(None)
    assert there.clean == here.clean == 1.0


def test_tf32_is_off_inside_and_restored(on_gpu: tuple[nn.Module, Tensor, Tensor], threat: ThreatModel) -> None:
    network, x, y = on_gpu
    seen = []
    network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.conv.fp32_precision))  # type: ignore[attr-defined]
    before = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    measure(network, x.cpu(), y.cpu(), threat, "pgd")
    assert set(seen) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before  # type: ignore[attr-defined]


def test_random_state_is_left_as_it_was(on_gpu: tuple[nn.Module, Tensor, Tensor], threat: ThreatModel) -> None:
    network, x, y = on_gpu
    state = torch.cuda.get_rng_state()
    measure(network, x.cpu(), y.cpu(), threat, "quick")
    assert torch.equal(torch.cuda.get_rng_state(), state)
