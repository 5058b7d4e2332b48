"""A compiled network makes the same updates as the plain one, and is compiled only once for each kind of pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from headstart.core import Method, Target
from tests.contracts.conftest import build
from tests.helpers import Batch, batches, run_method, tiny_net

compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

# The double backwards, which compiled networks refuse and which must therefore go around them, rare work, and the most
# kinds of passes in one method. In double precision, where a sign decides alike; features are read in single precision.
VARIED = dict.fromkeys(["fast-bat", "fgsm-ga", "fgsm-sdi", "trades-awp"], torch.float64) | {"fgsm-law": torch.float32}
# Two epochs that end with a smaller batch: FGSM-SDI's and LIET's rare work falls on the first batch of each.
EPOCH: list[Batch] = [*batches(2), tuple(t[:6] for t in batches(3)[2])]  # type: ignore[list-item]


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained(name: str, backend: str | None, dtype: torch.dtype) -> tuple[nn.Module, int]:
    """The network after two epochs, and the graphs compiled; compiling any in the second epoch is an error."""
    net, method = tiny_net().to(dtype), build(name).to(dtype)
    fast = torch.compile(net, backend=backend, dynamic=False) if backend else None
    target = Target(net, fast=fast)  # type: ignore[arg-type]
    data = [(x.to(dtype), y, index) for x, y, index in EPOCH]
    torch.manual_seed(5)
    epoch(method, target, data)
    with torch.compiler.set_stance("fail_on_recompile" if backend else "default"):
        epoch(method, target, data)
    return net, counters["stats"]["unique_graphs"]


def epoch(method: Method, target: Target, data: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    run_method(method, target.module, data, target=target)


@pytest.mark.parametrize(("varied", "dtype"), VARIED.items(), ids=VARIED)
def test_compiled_updates_are_the_plain_ones(varied: str, dtype: torch.dtype) -> None:
    """Traced and differentiated as for the default compiler, which is left out."""
    plain, _ = trained(varied, None, dtype)
    compiled, graphs = trained(varied, "aot_eager", dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    # The network as called in different ways: batch size, mode, frozen weights, moving statistics, gradients wanted.
    assert 0 < graphs <= torch._dynamo.config.recompile_limit, "further calls would run uncompiled"
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, rtol=0, atol=tolerance, msg=key)


@pytest.mark.slow
@pytest.mark.skipif(compiler is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_default_compiler() -> None:
    plain, _ = trained("fgsm-rs", None, torch.float32)
    compiled, _ = trained("fgsm-rs", "inductor", torch.float32)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, rtol=0, atol=1e-5, msg=key)
