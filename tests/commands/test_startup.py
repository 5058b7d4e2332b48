"""The command line starts without the libraries that only work needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import headstart

HEAVY = ("torch", "lightning_fabric", "datasets", "sklearn", "matplotlib", "pyarrow", "pandas")
REPORT = """
import sys
from headstart.commands.main import main
try:
    code = main({arguments!r})
except SystemExit as stop:
    code = stop.code
print("loaded:", [name for name in {heavy!r} if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([command, "--help"] for command in ("train", "evaluate", "bench", "report", "list"))],
    ids=" ".join,
)
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    script = REPORT.format(arguments=arguments, heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) > 1, "nothing but our own line was printed"
    assert run.stdout.splitlines()[-1] == "loaded: []"


def test_every_public_name_is_there() -> None:
    for name in headstart.__all__:
        assert getattr(headstart, name).__name__.endswith(name)
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        headstart.tarin  # noqa: B018
