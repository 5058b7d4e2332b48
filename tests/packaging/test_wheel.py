"""What is installed is what is in the source: every file of the package, and one version."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import headstart
from headstart.report.published import FILES

PACKAGE = Path(headstart.__file__).parent
ROOT = PACKAGE.parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the source, where nothing of an earlier build lies about."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "src" / "headstart", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "-w", str(out), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    files = {f"headstart/{p.relative_to(PACKAGE).as_posix()}" for p in PACKAGE.rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    published = {f"headstart/report/published/{name}" for name in (*FILES, "README.md")}
    assert {"headstart/py.typed", "headstart/recipes/books/digits.yaml", *published} <= files
    assert {name for name in wheel.namelist() if name.startswith("headstart/")} == files


def test_the_version_is_that_of_the_source(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    about = Parser().parsestr(wheel.read(name).decode())
    assert about["Version"] == headstart.__version__


def test_the_core_needs_no_package_of_an_extra(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    needs = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []
    core = {line for line in needs if "extra ==" not in line}
    assert any(line.startswith("torch") for line in core)
    assert not [
        line for line in core if line.startswith(("matplotlib", "tensorboard", "datasets", "hugging", "scikit"))
    ]
