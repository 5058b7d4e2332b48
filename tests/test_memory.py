"""What is freed between two passes serves the next one."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.scores import input_gradient, margin
from headstart.core.memory import reuse_memory
from headstart.evaluation.precision import float32
from headstart.evaluation.search import Bfloat16

MEBIBYTES, TIMES = 40, 10
FAULTS = f"""
import resource, sys
import torch
from headstart.core.memory import reuse_memory

def passes():
    torch.ones({MEBIBYTES} << 18)

if "reuse" in sys.argv:
    reuse_memory(torch.device("cpu"))
for _ in range(5):
    passes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    passes()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    """Page faults while a block of memory is filled and freed again and again, in a process of its own."""
    process = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True)
    return int(process.stdout)


def takes_large_blocks() -> bool:
    """Whether the C library is a glibc that reuses blocks of more than 32 MiB when it is told to."""
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


@pytest.mark.skipif(not takes_large_blocks(), reason="is for glibc 2.35 and newer")
def test_the_system_is_asked_once_for_memory_that_is_used_again_and_again() -> None:
    pages = (MEBIBYTES << 20) // resource.getpagesize()
    once, always = faults("reuse"), faults()
    assert once < pages / 10, "no page is taken anew"
    assert always > 0.9 * TIMES * pages, "all are, each time, where nothing is done"


def test_other_devices_leave_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.core.memory._set", lambda: pytest.fail("the C library was asked"))
    reuse_memory(torch.device("meta"))


class Watched(nn.Module):
    """A convolution that knows how many of the images it was shown are still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.alive = 0

    def forward(self, x: Tensor) -> Tensor:
        x.register_hook(_Told(self))
        logits: Tensor = self.conv(x).mean((2, 3))
        return logits


class _Told:
    """A hook on an image, which lives as long as the image does."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        watched.alive += 1

    def __call__(self, grad: Tensor) -> None:
        return None

    def __del__(self) -> None:
        self.watched.alive -= 1


def test_a_search_in_bfloat16_keeps_no_images_of_earlier_steps() -> None:
    network = Watched().eval().requires_grad_(False)
    search, x, y = Bfloat16(network), torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with float32(torch.device("cpu")):  # as around an attack
        for _ in range(5):
            input_gradient(search, x, y, margin)
            assert network.alive == 0
