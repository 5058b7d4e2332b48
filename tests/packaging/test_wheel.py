"""What is installed is what is in the source, and works in an environment with what the wheel asks for and no more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

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


# -- installed in an empty environment -------------------------------------------------------------------------------

EXTRAS = {"data", "evaluate", "report", "export", "hub", "logging", "vision"}
COMMANDS = """
import contextlib, io, json, sys
from headstart.commands.main import main
results = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line.split())
    results.append([code, out.getvalue(), err.getvalue()])
import headstart
print(json.dumps([headstart.__file__, results]))
"""
PICTURES = "--data folder:pictures --image_size 8 --val_size 4 --batch_size 8 --workers 0 --device cpu --max_steps 2"
TRAINED = f"train cifar10/fgsm-sdi --out run {PICTURES} --model small --model_args.widths [4,8]"
ABSENT = {  # what each extra is for, asked for without it
    "data": "train digits/fgsm --out none",
    "evaluate": "compare run run",
    "report": "report run",
    "export": "export run --to onnx",
    "hub": "push run me/net",
    "vision": f"train cifar10/fgsm --out none {PICTURES} --model timm:resnet18",
}


def needed(requirements: list[str], seen: set[str]) -> set[str]:
    """Names of the distributions that these requirements bring, without extras of ours."""
    for requirement in map(Requirement, requirements):
        if requirement.name in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name)
        of_extras = [Requirement(line) for line in distribution(requirement.name).requires or []]
        wanted = [r for r in of_extras if r.marker and any(r.marker.evaluate({"extra": e}) for e in requirement.extras)]
        needed([*(distribution(requirement.name).requires or []), *(f"{r.name}{r.specifier}" for r in wanted)], seen)
    return seen


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new environment: the wheel, by pip, and links to what it needs, which are in this one already."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, str(wheel.filename)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    core = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    for needs in needed(core, set()):
        found = distribution(needs)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                os.symlink(Path(str(found.locate_file(top))), packages / top)
    return folder


@pytest.fixture(scope="module")
def answers(installed: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of command lines in that environment, all in one process."""
    from PIL import Image

    for i in range(24):
        path = installed / "pictures" / ("train", "test")[i % 2] / ("cat", "dog")[i // 2 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * i, 255 - 10 * i, 99)).save(path)
    lines = ["list methods", TRAINED, *ABSENT.values()]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(installed / "env" / "bin" / "python"), "-c", COMMANDS, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=installed, env=kept)
    assert done.returncode == 0, done.stderr
    home, results = json.loads(done.stdout.splitlines()[-1])
    assert Path(home).is_relative_to(installed), "the installed library, not the source"
    return dict(zip(lines, map(tuple, results), strict=True))


def test_the_installed_command_starts(installed: Path) -> None:
    command = [str(installed / "env" / "bin" / "headstart"), "--help"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=installed, env=kept)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_the_installed_library_lists_and_trains(installed: Path, answers: dict[str, Any]) -> None:
    code, out, _ = answers["list methods"]
    assert code == 0
    assert "fgsm-sdi" in out
    code, _, err = answers[TRAINED]
    assert code == 0, err
    assert (installed / "run" / "model.safetensors").is_file()
    assert "headstart[logging]" in err, "its log for TensorBoard is left out, and a line says so"


@pytest.mark.parametrize("extra", ABSENT)
def test_what_an_extra_brings_is_named_in_one_line(answers: dict[str, Any], extra: str) -> None:
    code, _, err = answers[ABSENT[extra]]
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert last.startswith("headstart: ")
    assert last.endswith(f': pip install "headstart[{extra}]"')


def test_the_wheel_names_its_extras(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    assert set(Parser().parsestr(wheel.read(name).decode()).get_all("Provides-Extra") or []) >= {*EXTRAS, "all"}
