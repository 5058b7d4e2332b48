"""The exceptions for bad input, and what words them: the nearest valid name, the extra to install."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LostProcess(Exception):
    """Another process of a training run has ended, or can no longer be reached. Shown as one line."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the state is saved."""


class UserError(Exception):
    """The user's input is wrong: one line naming the value, what is allowed and the remedy (exit code 2)."""


class SettingError(UserError):
    """A setting, name or flag that does not exist, or a value that it does not take."""


class DataError(UserError):
    """Images or labels that cannot be found, read or used."""


class WeightsError(UserError):
    """Weights, a checkpoint or a network that cannot be read, or that do not belong together."""


class StorageError(UserError):
    """A file or folder that cannot be written, or that holds something else; what was saved before is untouched."""


class MissingPackage(UserError):
    """A package that is not installed, since only an extra of the installation needs it."""


class OutOfMemory(UserError):
    """Too little memory on the device or the machine."""


class Diverged(UserError):
    """Training whose loss, weights or state became infinite or NaN."""


def unknown(
    kind: str, value: str, allowed: Iterable[str], *, part: str | None = None, frame: str = "{}"
) -> SettingError:
    """An error for a name that does not exist, with the nearest valid one.

    Args:
        allowed: what may stand in place of the value, or of its wrong part.
        part: which that is; the rest must not make two names look alike.
        frame: the rest, such as "digits/{}".
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(value if part is None else part, names, n=1, cutoff=0.5)
    hint = f"; did you mean {frame.format(near[0])!r}?" if near else ""
    return SettingError(f"unknown {kind} {value!r}{hint} (allowed: {', '.join(map(frame.format, names))})")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports inside are of packages that come with ``headstart[name]`` alone.

    Raises:
        MissingPackage: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackage(f'{error.name} is not installed: pip install "headstart[{name}]"') from error
