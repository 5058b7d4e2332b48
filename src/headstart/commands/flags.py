"""One flag per field of a dataclass of settings, and how flags are shown."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from headstart.fields import KINDS, describe, limits

PLACEHOLDERS = {KINDS[int]: "N", KINDS[float]: "X", KINDS[dict]: "{KEY: VALUE}"}


def add_fields(
    parser: ArgumentParser, cls: type, only: Collection[str] | None = None, skip: Collection[str] = ()
) -> None:
    """Add ``--name`` for the fields of a dataclass, in their order, with its type hints and its docstring as help.

    A flag that is not given leaves nothing in the options, so that ``--name null`` is told from no flag at all.

    Args:
        only: the fields that become flags; default all.
        skip: fields that do not.
    """
    hints, bounded, texts = get_type_hints(cls), get_type_hints(cls, include_extras=True), attributes(cls)
    for field in dataclasses.fields(cls):
        if field.name not in skip and (only is None or field.name in only):
            note = limits(bounded[field.name])
            if describe(hints[field.name]) == KINDS[dict]:
                note = f"also --{field.name}.KEY VALUE"
            text = texts[field.name].rstrip(".") + (f" ({note})" if note else "")
            parser.add_argument(f"--{field.name}", type=hints[field.name], default=argparse.SUPPRESS, help=text)


def given(options: Namespace, cls: type) -> dict[str, Any]:
    """The fields of a dataclass that the user gave a value, which may be None."""
    values = options.as_dict()
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}


def attributes(cls: type) -> dict[str, str]:
    """What the section "Attributes:" of a docstring says about each name; "a, b: text" is said of both."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section.replace("``", ""), re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}


class Help(DefaultHelpFormatter):
    """The text of a flag and its default; its type is told by the placeholder, which takes less room."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, {}, argparse.SUPPRESS) or action.nargs == 0 or "default" in text
        return text if silent or not action.option_strings else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = describe(getattr(action, "_typehint", action.type))
        return PLACEHOLDERS.get(kind) or super()._get_default_metavar_for_optional(action)
