"""Names of methods: a file dropped into ``methods/`` that registers itself is enough."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headstart.core.method import Method, TaskInfo
from headstart.core.threat import NORMS
from headstart.errors import SettingError, unknown
from headstart.fields import typed

Builder = Callable[..., Method]
ANY_NORM = tuple(NORMS)


@dataclass(frozen=True)
class MethodEntry:
    """A registered method: how to build it, and what ``headstart list methods`` says of it."""

    name: str
    build: Builder
    source: str
    passes: str
    summary: str
    norms: tuple[str, ...]
    base: Builder | None = None
    fixed: tuple[str, ...] = ()
    same_as: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with their defaults, from the signature of ``build``, and of ``base`` where it hands some on."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings, each known and of the type that the signature declares.

        Raises:
            SettingError: one is not.
        """
        known, checked = self.parameters, {}
        for key, value in settings.items():
            if key not in known:
                raise unknown(f"setting of method {self.name}:", key, known)
            checked[key] = typed(f"setting {key} of method {self.name}", value, known[key].annotation)
        return checked

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Settings with their types and defaults."""
        own, inherited = _parameters_of(self.build), _parameters_of(self.base) if self.base else {}
        return own | {name: p for name, p in inherited.items() if name not in own and name not in self.fixed}


_METHODS: dict[str, MethodEntry] = {}


def _parameters_of(build: Builder) -> dict[str, inspect.Parameter]:
    """Those after ``info`` by name, their types evaluated."""
    parameters = list(inspect.signature(build, eval_str=True).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}


def register(
    name: str,
    *,
    source: str,
    passes: str,
    norms: tuple[str, ...] = ("linf",),
    base: Builder | None = None,
    fixed: tuple[str, ...] = (),
    same_as: str | None = None,
) -> Callable[[Builder], Builder]:
    """Register ``build(info, **settings) -> Method`` under ``name``; every setting has a type and a default.

    Args:
        name: what recipes and the command line call the method.
        source: the paper.
        passes: cost of one update, F forwards, Bx input gradients, B full backwards (methods' table in the docs).
        norms: names of the norms that the method can train for: ``ANY_NORM`` where it leaves start, step and
            projection to the threat model, with settings that follow epsilon in any norm.
        base: the builder of another method, to which ``build`` hands its ``**settings``.
        fixed: settings of ``base`` that ``build`` chooses itself, so that nobody else can.
        same_as: the name under which this method, with its defaults, is registered already.
    """

    def decorate(build: Builder) -> Builder:
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice")
        summary = (inspect.getdoc(build) or "").split("\n\n")[0].replace("\n", " ")
        _METHODS[name] = MethodEntry(name, build, source, passes, summary, norms, base, fixed, same_as)
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
        SettingError: the name or a setting is unknown, a setting has a value the method refuses, or the method cannot
            train for the norm.
    """
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    entry = known[name]
    if info.threat.norm not in entry.norms:
        able = ", ".join(other for other, e in known.items() if info.threat.norm in e.norms)
        norms = " or ".join(entry.norms)
        raise SettingError(f"method {name} trains for norm {norms}, not {info.threat.norm!r} (methods that do: {able})")
    return entry.build(info, **entry.checked(settings or {}))
