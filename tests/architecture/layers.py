"""Which module of a package imports which: read from the source, so that lazy imports count like all others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("fields",),
    ("core",),
    ("parts", "attacks", "data", "models"),
    ("methods",),
    ("recipes",),
    ("runs",),
    ("training", "evaluation"),
    ("report",),
    ("campaigns",),
    ("api",),
    ("commands",),
)
"""The floors from the ground up. Who stands on one may import from those below it and from its own package alone."""

VERSION = "__version__"
"""The one name that the package itself lends to all floors: it is there before anything is imported."""


@dataclass(frozen=True, order=True)
class Arrow:
    """One import: who imports what, and in which line."""

    module: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imported}"


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package on disk by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(package: Path) -> list[Arrow]:
    """All imports of the package's own modules by one another, wherever they stand in the file."""
    found = modules(package)
    names = {*found, f"{package.name}.{VERSION}"}
    return sorted(
        Arrow(module, imported, line)
        for module, path in found.items()
        for imported, line in _imported(path, module, names)
        if imported.split(".")[0] == package.name
    )


def upward(arrows: Sequence[Arrow], floors: Sequence[Sequence[str]] = FLOORS) -> list[Arrow]:
    """The arrows that do not point down: those to a higher floor, and those to another package of the same floor."""
    height = {VERSION: -1} | {name: i for i, floor in enumerate(floors) for name in floor}

    def part(module: str) -> str:
        return [*module.split("."), ""][1]

    def floor(module: str) -> int:
        return height.get(part(module), len(floors))  # the package itself and __main__ stand above all

    return [
        arrow
        for arrow in arrows
        if part(arrow.module) != part(arrow.imported) and floor(arrow.module) <= floor(arrow.imported)
    ]


def _imported(path: Path, module: str, names: set[str]) -> Iterator[tuple[str, int]]:
    """What a module imports, and in which line; ``from package import name`` counts as the module where it is one."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in names else origin), node.lineno
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            yield _absolute(_literal(node.args[0], module, package), package), node.lineno


def _absolute(name: str, package: str) -> str:
    """A dotted name without the leading dots that stand for the package and its parents."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - level + 1], *filter(None, [name[level:]])])


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _literal(argument: ast.expr, module: str, package: str) -> str:
    """What is known of a name that is put together: all up to the first part that is not known."""
    known = ""
    for part in argument.values if isinstance(argument, ast.JoinedStr) else [argument]:
        if isinstance(part, ast.FormattedValue) and _name(part.value) in ("__name__", "__package__"):
            known += module if _name(part.value) == "__name__" else package
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            known += part.value
        else:
            break
    return known if set(known) == {"."} else known.rstrip(".")
