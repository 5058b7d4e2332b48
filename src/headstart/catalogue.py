"""What ``headstart list`` shows."""

from __future__ import annotations

from headstart.errors import unknown


def catalogue(what: str) -> list[dict[str, str]]:
    """Rows with at least ``name`` and ``summary``; methods also ``source`` and ``passes``.

    Raises:
        UserError: no such list.
    """
    if what not in _LISTS:
        raise unknown("list", what, _LISTS)
    return _LISTS[what]()


def _methods() -> list[dict[str, str]]:
    from headstart.registry import methods

    return [{"name": e.name, "summary": e.summary, "source": e.source, "passes": e.passes} for e in methods().values()]


def _recipes() -> list[dict[str, str]]:
    from headstart.config import recipe_names

    return _rows(recipe_names())


def _datasets() -> list[dict[str, str]]:
    from headstart.data import SOURCES

    return _rows(SOURCES)


def _models() -> list[dict[str, str]]:
    from headstart.models import EXTERNAL, MODELS

    return _rows({name: entry.summary for name, entry in MODELS.items()} | EXTERNAL)


def _attacks() -> list[dict[str, str]]:
    from headstart.attacks.suite import ATTACKS

    return _rows({name: attack.summary for name, attack in ATTACKS.items()})


def _suites() -> list[dict[str, str]]:
    from headstart.attacks.suite import SUITES

    return _rows({name: suite.summary for name, suite in SUITES.items()})


def _rows(summaries: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "summary": summary} for name, summary in summaries.items()]


_LISTS = {
    "methods": _methods,
    "recipes": _recipes,
    "datasets": _datasets,
    "models": _models,
    "attacks": _attacks,
    "suites": _suites,
}
