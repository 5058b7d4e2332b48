"""Names of methods: a file dropped into ``methods/`` that registers itself is enough."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headstart.core.method import Method, TaskInfo
from headstart.errors import UserError, unknown

Builder = Callable[..., Method]


@dataclass(frozen=True)
class MethodEntry:
    """A registered method: how to build it, and what ``headstart list methods`` says of it."""

    name: str
    build: Builder
    source: str
    passes: str
    summary: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with their defaults, from the signature of ``build``."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        return {p.name: p.default for p in parameters}


_METHODS: dict[str, MethodEntry] = {}


def register(name: str, *, source: str, passes: str) -> Callable[[Builder], Builder]:
    """Register ``build(info, **settings) -> Method`` under ``name``.

    Args:
        name: what recipes and the command line call the method.
        source: the paper.
        passes: cost of one update, F forwards, Bx input gradients, B full backwards (methods' table in the docs).
    """

    def decorate(build: Builder) -> Builder:
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice")
        summary = (inspect.getdoc(build) or "").split("\n\n")[0].replace("\n", " ")
        _METHODS[name] = MethodEntry(name, build, source, passes, summary)
        return build

    return decorate


def methods() -> dict[str, MethodEntry]:
    """All registered methods by name."""
    package = importlib.import_module("headstart.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"headstart.methods.{module.name}")
    return dict(sorted(_METHODS.items()))


def build_method(name: str, info: TaskInfo, settings: dict[str, Any] | None = None) -> Method:
    """Build a method by name.

    Raises:
        UserError: the name or a setting is unknown, or a setting has a value the method refuses.
    """
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    entry = known[name]
    for key in settings or {}:
        if key not in entry.settings:
            raise unknown(f"setting of method {name}:", key, entry.settings)
    try:
        return entry.build(info, **(settings or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"method {name}: {error}") from error
