"""One flag per field of a dataclass of settings, and how flags are shown."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from headstart.fields import KINDS, describe, fraction_of, limits

PLACEHOLDERS = {
    KINDS[int]: "N",
    KINDS[float]: "X",
    KINDS[dict]: "{KEY: VALUE}",
    KINDS[list[int]]: "[N, ...]",
    KINDS[list[float]]: "[X, ...]",
}


def add_fields(
    parser: ArgumentParser,
    cls: type,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    groups: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Add ``--name`` for the fields of a dataclass, with its type hints and its docstring as help.

    A flag that is not given leaves nothing in the options, so that ``--name null`` is told from no flag at all.

    Args:
        only: the fields that become flags; default all.
        skip: fields that do not.
        groups: titles under which the help shows fields, in that order; the others stand under "options".
    """
    hints, bounded, texts = get_type_hints(cls), get_type_hints(cls, include_extras=True), attributes(cls)
    places = {
        name: group
        for title, names in (groups or {}).items()
        for group in [parser.add_argument_group(title)]
        for name in names
    }
    names = [field.name for field in dataclasses.fields(cls)]
    for name in (*places, *(name for name in names if name not in places)):
        if name not in skip and (only is None or name in only):
            note = limits(bounded[name])
            if describe(hints[name]) == KINDS[dict]:
                note = f"also --{name}.KEY VALUE"
            text = texts[name].rstrip(".") + (f" ({note})" if note else "")
            place = places.get(name, parser)
            place.add_argument(f"--{name}", type=hints[name], default=argparse.SUPPRESS, help=text)


def given(options: Namespace, cls: type) -> dict[str, Any]:
    """The fields of a dataclass that the user gave a value, which may be None."""
    values = options.as_dict()
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}


def attributes(cls: type) -> dict[str, str]:
    """What the section "Attributes:" of a docstring says about each name; "a, b: text" is said of both."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section.replace("``", ""), re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}


def add_help(parser: ArgumentParser, values_of: Callable[[Namespace], Mapping[str, Any]] | None = None) -> None:
    """Add ``--help``, which shows beside each flag the value that it has for what was named before it.

    Args:
        parser: made with ``add_help=False``.
        values_of: the values of flags, from the options given so far.
    """

    class HelpOn(argparse._HelpAction):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            found = values_of(namespace) if values_of else {}
            for action in parser._actions:
                if action.dest in found:
                    action.help += f" (default: {shown(action.dest, found[action.dest])})"
            super().__call__(parser, namespace, values, option_string)

    parser.add_argument("-h", "--help", action=HelpOn, default=argparse.SUPPRESS, help="show this help and exit")


def shown(name: str, value: Any) -> str:
    """A value as one would type it, epsilon as a fraction of 255 where it is one."""
    if name == "epsilon":
        return fraction_of(value)
    return " ".join(yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").split())


class Help(DefaultHelpFormatter):
    """The text of a flag and its default; its type is told by the placeholder, which takes less room."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, {}, argparse.SUPPRESS) or action.nargs == 0 or "default" in text
        return text if silent or not action.option_strings else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = describe(getattr(action, "_typehint", action.type))
        return PLACEHOLDERS.get(kind) or super()._get_default_metavar_for_optional(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Lists have a second flag, --NAME+, which appends; once is enough to read."""
        once = super()._format_action_invocation(action).split(f", --{action.dest}+")[0]
        return once.replace("[ITEM,...]", self._get_default_metavar_for_optional(action))
