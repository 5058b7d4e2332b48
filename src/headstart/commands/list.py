"""``headstart list``."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace

from headstart.errors import SettingError, unknown

GAP = 2


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("what", type=str, help=" | ".join(LISTS))
    sub.add_argument(
        "name", type=Optional[str], nargs="?", default=None,
        help="only names that hold this, such as digits; all there is to say of the one that is this",
    )  # fmt: skip
    sub.add_argument("--json", action="store_true", help="a JSON array")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    rows, name = rows_of(options.what), options.name
    named = [row for row in rows if row["name"] == name]
    rows = named or [row for row in rows if name is None or name in row["name"]]
    if not rows:
        raise SettingError(f"no {options.what} with {name!r} in their name; headstart list {options.what} shows all")
    if options.json:
        print(json.dumps(rows, indent=2))
    elif named:
        print(_in_full(options.what, named[0]))
    else:
        print("\n".join(_lines(rows)))
    return 0


def rows_of(what: str) -> list[dict[str, str]]:
    """Rows with at least ``name`` and ``summary``; methods also ``source`` and ``passes``.

    Raises:
        SettingError: no such list.
    """
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    return LISTS[what]()


def _lines(rows: list[dict[str, str]]) -> list[str]:
    """One line for each: its name and its summary, cut where a terminal ends."""
    width = max(len(row["name"]) for row in rows) + GAP
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [f"{row['name']:<{width}}{row['summary']}" for row in rows]
    return [line if room is None or len(line) <= room else f"{line[: room - 1]}…" for line in lines]


def _in_full(what: str, row: dict[str, str]) -> str:
    """Everything there is to say of one entry, a line each."""
    said: dict[str, Any] = {**row, **DETAILS[what](row["name"])} if what in DETAILS else dict(row)
    width = max(map(len, said)) + GAP
    return "\n".join(f"{key:<{width}}{value}" for key, value in said.items())


def _details_of_method(name: str) -> dict[str, str]:
    import yaml

    from headstart.methods.registry import methods

    entry = methods()[name]
    settings = yaml.safe_dump(entry.settings, default_flow_style=True, width=10**6).strip()
    return {"norms": ", ".join(entry.norms), "settings": settings, "try it": f"headstart train digits/{name}"}


def _details_of_recipe(name: str) -> dict[str, str]:
    return {"fields and cost": f"headstart train --show {name}", "train it": f"headstart train {name}"}


def _methods() -> list[dict[str, str]]:
    from headstart.methods.registry import methods

    return [{"name": e.name, "summary": e.summary, "source": e.source, "passes": e.passes} for e in methods().values()]


def _recipes() -> list[dict[str, str]]:
    from headstart.recipes.reader import recipe_names

    return _named(recipe_names())


def _datasets() -> list[dict[str, str]]:
    from headstart.data import SOURCES

    return _named(SOURCES)


def _models() -> list[dict[str, str]]:
    from headstart.models import EXTERNAL, MODELS

    return _named({name: entry.summary for name, entry in MODELS.items()} | EXTERNAL)


def _attacks() -> list[dict[str, str]]:
    from headstart.evaluation.suites import ATTACKS

    return _named({name: attack.summary for name, attack in ATTACKS.items()})


def _suites() -> list[dict[str, str]]:
    from headstart.evaluation.suites import SUITES

    return _named({name: suite.summary for name, suite in SUITES.items()})


def _named(summaries: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "summary": summary} for name, summary in summaries.items()]


LISTS = {
    "methods": _methods,
    "recipes": _recipes,
    "datasets": _datasets,
    "models": _models,
    "attacks": _attacks,
    "suites": _suites,
}
DETAILS = {"methods": _details_of_method, "recipes": _details_of_recipe}
