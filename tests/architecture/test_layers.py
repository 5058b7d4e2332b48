"""Imports point down only: the rule of CONTRIBUTING.md, and that the test sees every kind of import."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headstart
from tests.architecture.layers import FLOORS, arrows, modules, upward

PACKAGE = Path(headstart.__file__).parent
GUIDE = PACKAGE.parents[1] / "CONTRIBUTING.md"


def test_imports_point_down() -> None:
    assert [str(arrow) for arrow in upward(arrows(PACKAGE))] == []


def test_every_part_of_the_package_has_its_floor() -> None:
    parts = {name.split(".")[1] for name in modules(PACKAGE) if "." in name} - {"__main__"}
    assert parts == {name for floor in FLOORS for name in floor}


def test_the_guide_draws_the_same_floors() -> None:
    diagram = re.search(r"^## Layers\n.*?\n((?:    [^\n]*\n)+)", GUIDE.read_text(), re.M | re.S)
    assert diagram is not None
    floors = [re.split(r"[,|]", floor) for floor in " ".join(diagram[1].split()).split("<-")]
    assert [{name.strip() for name in floor} for floor in floors] == [set(floor) for floor in FLOORS]


# -- the test of the test --------------------------------------------------------------------------------------------

IMPORTS = {
    "at the top": "import pack.roof",
    "from a package": "from pack.roof import tiles",
    "from the root": "from pack import roof",
    "a name": "from pack.roof.tiles import red",
    "relative": "from ..roof import tiles",
    "relative to the root": "from .. import roof",
    "lazy": "def build():\n    from pack.roof import tiles",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pack.roof.tiles",
    "by name": "import importlib\nimportlib.import_module('pack.roof')",
    "by a name put together": "from importlib import import_module\nimport_module(f'pack.roof.{name}')",
    "by a name from the root": "from importlib import import_module\nimport_module(f'pack.{name}')",
    "by a relative name": "from importlib import import_module\nimport_module('..roof', __package__)",
    "of the other wing": "from pack.east import window",
    "of the package itself": "import pack",
}
ALLOWED = [
    "from pack import __version__",
    "from pack.ground import stone",
    "from .window import glass",
    "import importlib\nimportlib.import_module(f'pack.west.{name}')",
    "import importlib\nimportlib.import_module(f'{__package__}.{name}')",
    "import packed.roof",
]
SYNTHETIC = (("ground",), ("west", "east"), ("roof",))


def synthetic(folder: Path, source: str) -> list[str]:
    """What is wrong in a package of three floors, whose west wing holds the ``source``."""
    for part in ("ground/stone", "east/window", "roof/tiles", "west/window"):
        path = folder / "pack" / f"{part}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from pack.ground import stone\n")
        path.with_name("__init__.py").touch()
    (folder / "pack" / "__init__.py").write_text("from pack.roof import tiles\n__version__ = '1'\n")
    (folder / "pack" / "west" / "door.py").write_text(source)
    return [arrow.module for arrow in upward(arrows(folder / "pack"), SYNTHETIC)]


@pytest.mark.parametrize("source", IMPORTS.values(), ids=IMPORTS)
def test_an_arrow_up_or_sideways_is_seen(tmp_path: Path, source: str) -> None:
    assert synthetic(tmp_path, source) == ["pack.west.door"]


@pytest.mark.parametrize("source", ALLOWED)
def test_an_arrow_down_is_fine(tmp_path: Path, source: str) -> None:
    assert synthetic(tmp_path, source) == []
