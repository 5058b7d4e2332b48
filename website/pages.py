"""The pages that are made of the code and of stored records."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import headstart
from headstart.methods.registry import methods
from headstart.report import demo_page

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "epyc2"
METHODS = ROOT / "docs" / "methods.md"


def demo() -> str:
    """The page that ``headstart demo`` writes, of the stored demo."""
    return demo_page(*(json.loads((RECORDS / "demo" / f"{name}.json").read_text()) for name in ("demo", "details")))


def every_name() -> str:
    """Every name of ``headstart.__all__`` with its docstring."""
    public = {name: getattr(headstart, name) for name in headstart.__all__}
    errors = {n: o for n, o in public.items() if inspect.isclass(o) and issubclass(o, Exception)}
    classes = {n: o for n, o in public.items() if inspect.isclass(o) and n not in errors}
    modules = {n: o for n, o in public.items() if isinstance(o, ModuleType)}
    functions = {n: o for n, o in public.items() if n not in {*errors, *classes, *modules}}
    sections = {"Functions": functions, "Results and recipes": classes}
    for name, module in modules.items():
        sections[f"headstart.{name}"] = {f"{name}.{inside}": getattr(module, inside) for inside in module.__all__}
    sections["Errors"] = errors
    return "\n".join(
        f"## {title}\n\n" + "".join(_entry(f"headstart.{name}", thing) for name, thing in things.items())
        for title, things in sections.items()
    )


def _entry(name: str, thing: Any) -> str:
    """One object under its public name, from where it is written: what wraps it says less of its parameters."""
    home = inspect.unwrap(thing)
    if not callable(home):
        return f"### {name}\n\n`{home!r}`\n\n"
    return (
        f"::: {home.__module__}.{home.__qualname__}\n    options:\n      heading: {name}\n      toc_label: {name}\n\n"
    )


def every_method() -> str:
    """All methods in one table: registry, docs/methods.md, and the bench on digits."""
    figures_of = ("AutoAttack, %", "processor, s", "passes, counted")
    heads = ("method", *figures_of, "passes", "norms", "memory", "what it is", "family", "source")
    families, measured = _rows_of_methods(), _measured()
    rows = [heads, ["---"] * len(heads)]
    for name, entry in methods().items():
        family, memory = families[name]
        what = entry.summary.partition(": ")[2] or entry.summary
        figures, norms = measured.get(name, ("", "", "")), ", ".join(entry.norms)
        rows.append((f"`{name}`", *figures, entry.passes, norms, memory, what, family, entry.source))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows_of_methods() -> dict[str, tuple[str, str]]:
    """Family and memory of every method, as docs/methods.md has them."""
    rows: dict[str, tuple[str, str]] = {}
    for section in re.split(r"^## ", METHODS.read_text(), flags=re.M)[1:]:
        family, _, body = section.partition("\n")
        for row in re.findall(r"^\| `([\w-]+)` \|(.*)\|$", body, re.M):
            cells = [cell.strip() for cell in row[1].split("|")]
            if len(cells) == 6:
                anchor = re.sub(r"[^\w -]", "", family).lower().replace(" ", "-")
                rows[row[0]] = (f"[{family}](methods.md#{anchor})", cells[2])
    return rows


def _measured() -> dict[str, tuple[str, str, str]]:
    """Robust accuracy in percent, processor seconds, passes per update of every method on digits at epsilon 0.3."""
    rows = json.loads((RECORDS / "methods-digits" / "table.json").read_text())["rows"]
    return {
        row["recipe"].removeprefix("digits/"): (
            f"{100 * mean(row['robust']):.1f}",
            f"{mean(row['cpu_seconds']):.1f}",
            f"{sum(row['passes_per_update'].values()):.1f}",
        )
        for row in rows
    }
