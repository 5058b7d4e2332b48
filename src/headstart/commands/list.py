"""``headstart list``."""

from __future__ import annotations

import json

from jsonargparse import ArgumentParser, Namespace

from headstart.errors import unknown


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("what", type=str, help=" | ".join(LISTS))
    sub.add_argument("--json", action="store_true", help="a JSON array instead of a table")


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    rows = rows_of(options.what)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    return 0


def rows_of(what: str) -> list[dict[str, str]]:
    """Rows with at least ``name`` and ``summary``; methods also ``source`` and ``passes``.

    Raises:
        SettingError: no such list.
    """
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    return LISTS[what]()


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
