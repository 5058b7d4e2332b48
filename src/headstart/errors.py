"""The one exception for bad input, and the helper that suggests the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LostProcess(Exception):
    """Another process of a training run has ended, or can no longer be reached. Shown as one line."""


class UserError(Exception):
    """The user's input is wrong: one line naming the value, what is allowed and the remedy (exit code 2)."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest valid one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {value!r}{hint} (allowed: {', '.join(names)})")
