"""``headstart doctor``: a table whatever is wrong, and an exit code that says whether training can run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import headstart
from headstart.commands import doctor
from headstart.commands.main import main
from headstart.data import decode

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture) -> dict[str, str]:
    """The table by its second column."""
    lines = capsys.readouterr().out.splitlines()
    return {name: line for line in lines for name in doctor.CHECKS if re.match(rf"(ok |BAD)  {name} ", line)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, which takes seconds."""
    monkeypatch.setitem(doctor.CHECKS, "compile", lambda: "works")


@pytest.mark.slow
def test_every_check_runs_here(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path))
    assert main(["doctor"]) == 0
    table = printed(capsys)
    assert table.keys() == doctor.CHECKS.keys()
    assert all(line.startswith("ok ") for line in table.values())
    assert torch.__version__ in table["versions"]
    assert "digits, cifar10 ($HEADSTART_DATA)" in table["data sets"]
    assert re.search(r"\d\.\d\d of the time of fp32", table["bf16"])
    assert re.search(r"works|does not work here \(", table["compile"])
    assert "GiB free" in table["disk"]


def fails(error: Exception) -> Callable[..., Any]:
    def check(*args: Any, **kwargs: Any) -> None:
        raise error

    return check


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_is_said_and_makes_the_code_1(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_step", fails(RuntimeError("CUDA error:\nno kernel image")))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(decode, "available_memory", lambda: 2.0**28)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "BAD  device     RuntimeError: CUDA error: no kernel image" in captured.out
    assert re.search(r"BAD  disk .* has 0.00 GiB free", captured.out)
    assert "BAD  memory     0.25 GiB free; end something else" in captured.out
    assert captured.out.splitlines()[-1] == "training cannot run here: device, bf16, disk, memory"


def test_a_compiler_that_does_not_work_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", fails(RuntimeError("no C++ compiler")))
    assert doctor.answer(doctor.compiler) == (
        True, "does not work here (RuntimeError: no C++ compiler); leave compile at false"
    )  # fmt: skip


def test_sets_of_the_hub_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    (tmp_path / "uoft-cs___cifar100").mkdir()
    assert doctor.data_sets() == "digits, cifar100 (hub cache); $HEADSTART_DATA is not set"


def test_the_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(headstart.__file__).parents[2] / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    declared = {
        name: re.findall(r'"([\w-]+)', listed) for name, listed in re.findall(r"^(\w+) = \[(.*)\]", section, re.M)
    }
    modules = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow", "markdown-it-py": "markdown_it"}
    missing = doctor.EXTRAS.keys() - declared.keys()
    assert not missing
    for name, listed in declared.items():
        if name != "all":
            assert doctor.EXTRAS[name] == tuple(modules.get(package, package) for package in listed)
    monkeypatch.setitem(sys.modules, "shtab", None)
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "shtab" else there(name))
    assert re.search(r"not: .*completion", doctor.extras())
