"""One flag per field of a dataclass of settings."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace


def add_fields(
    parser: ArgumentParser, cls: type, only: Collection[str] | None = None, skip: Collection[str] = ()
) -> None:
    """Add ``--name`` for the fields of a dataclass, in their order, with its type hints and its docstring as help.

    A flag that is not given leaves nothing in the options, so that ``--name null`` is told from no flag at all.

    Args:
        only: the fields that become flags; default all.
        skip: fields that do not.
    """
    hints, texts = get_type_hints(cls), attributes(cls)
    for field in dataclasses.fields(cls):
        if field.name not in skip and (only is None or field.name in only):
            parser.add_argument(
                f"--{field.name}", type=hints[field.name], default=argparse.SUPPRESS, help=texts[field.name]
            )


def given(options: Namespace, cls: type) -> dict[str, Any]:
    """The fields of a dataclass that the user gave a value, which may be None."""
    values = options.as_dict()
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}


def attributes(cls: type) -> dict[str, str]:
    """What the section "Attributes:" of a docstring says about each name; "a, b: text" is said of both."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}
