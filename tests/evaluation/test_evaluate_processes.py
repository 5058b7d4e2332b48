"""``headstart evaluate`` killed, continued by two processes, and compared with one that was left in peace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.attacks.square import _Search
from headstart.commands.main import main
from headstart.data import load

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COST = ("seconds", "attack_seconds", "processes", "environment")


class NearestMean(nn.Module):
    """Minus half the squared distance to the mean digit of each class."""

    def __init__(self) -> None:
        super().__init__()
        x, y = load("digits", "train").tensors()
        self.means = nn.Parameter(torch.stack([x[y == k].float().flatten(1).mean(0) / 255 for k in range(10)]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.means.T - self.means.square().sum(1) / 2


def nearest_mean(classes: int) -> nn.Module:
    return NearestMean()


def command(out: Path, *more: str) -> list[str]:
    flags = ["--suite", "pgd", "--data", "digits", "--epsilon", "0.1", "--batch_size", "64", "--device", "cpu"]
    program = [sys.executable, "-m", "headstart", "evaluate", f"{__name__}:nearest_mean"]
    return [*program, *flags, "--out", str(out), *more]


def numbers(out: Path) -> dict[str, Any]:
    found = {name: value for name, value in json.loads(out.read_text()).items() if name not in COST}
    del found["request"]["devices"]
    return found


@pytest.mark.dist
def test_killed_and_continued_by_two_processes(tmp_path: Path) -> None:
    peace, war = tmp_path / "peace.json", tmp_path / "war.json"
    subprocess.run(command(peace), check=True, env=ENVIRONMENT, capture_output=True)
    partial = tmp_path / "war.partial.safetensors"
    killed = subprocess.Popen(command(war), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not partial.exists() and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the test needs an evaluation that outlives its first attack"
    assert not war.exists()
    rest = subprocess.run(command(war, "--devices", "2"), check=True, env=ENVIRONMENT, capture_output=True)
    assert b"continuing after fgsm" in rest.stderr
    assert rest.stdout.count(b"(pgd, 500 images") == 1, "one process reports"
    right = round(500 * numbers(war)["clean"])
    assert f" {right} images correct without attack" in rest.stderr.decode(), "of both processes"
    assert numbers(war) == numbers(peace)
    assert 0.1 < numbers(war)["robust"] < numbers(war)["clean"] - 0.1
    assert json.loads(war.read_text())["processes"] == 2
    assert not partial.exists()


KILLED = """
import os, signal, sys
from headstart.commands.main import main
from headstart.evaluation.running import Running
keep = Running.keep

def killed(self, batch, found, state):
    keep(self, batch, found, state)
    if batch == 1 and state.query == 500:
        os.kill(os.getpid(), signal.SIGKILL)

Running.keep = killed
main(sys.argv[1:])
"""


def test_a_square_that_was_killed_continues_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--data", "digits", "--epsilon", "0.02", "--n", "12", "--batch_size", "6", "--device", "cpu"]
    asked = ["evaluate", f"{__name__}:nearest_mean", *flags, "--out"]
    assert main([*asked, str(tmp_path / "peace.json")]) == 0
    war = tmp_path / "war.json"
    killed = subprocess.run([sys.executable, "-c", KILLED, *asked, str(war)], env=ENVIRONMENT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "war.partial.0.safetensors").exists()
    queries, ask = list[int](), _Search.ask

    def noted(self: _Search, query: int) -> None:
        queries.append(query)
        ask(self, query)

    monkeypatch.setattr(_Search, "ask", noted)
    assert main([*asked, str(war)]) == 0
    assert queries == list(range(500, 5000)), "the first batch is finished, and the second is at its 500th query"
    peace, found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("peace", "war"))
    assert {name: value for name, value in found.items() if name not in COST} == {
        name: value for name, value in peace.items() if name not in COST
    }
    assert 0.5 < found["robust"] < 1
    assert not list(tmp_path.glob("war.partial*"))
