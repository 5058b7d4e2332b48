"""Settings from one declaration: the type of a dataclass field says what a value must be, and in which bounds."""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from headstart.errors import SettingError, unknown

KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "keys and values such as {alpha: 0.1}",
    list[int]: "a list of whole numbers such as [100, 105]",
    list[float]: "a list of numbers such as [0.1, 0.5]",
    list[str]: "a list of names such as [conv1, layer1]",
}


@dataclass(frozen=True)
class Bound:
    """A limit to a number, as in ``Annotated[float, at_least(0), below(1)]``."""

    words: str
    limit: float
    holds: Callable[[float, float], bool]

    def __str__(self) -> str:
        return f"{self.words} {self.limit}"


def at_least(limit: float) -> Bound:
    """The limit, or more."""
    return Bound("at least", limit, operator.ge)


def above(limit: float) -> Bound:
    """More than the limit."""
    return Bound("above", limit, operator.gt)


def at_most(limit: float) -> Bound:
    """The limit, or less."""
    return Bound("at most", limit, operator.le)


def below(limit: float) -> Bound:
    """Less than the limit."""
    return Bound("below", limit, operator.lt)


def check_fields(settings: Any, skip: Collection[str] = ()) -> None:
    """Check every field of a dataclass, a frozen one too, and put numbers in the place of text that YAML read (1e-3).

    Raises:
        SettingError: see ``typed``.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        if name not in skip:
            object.__setattr__(settings, name, typed(name, getattr(settings, name), hint))


def describe(hint: Any) -> str:
    """What a value of this type looks like, in words."""
    kind, _ = _parts(hint)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return KINDS.get(kind) or KINDS.get(get_origin(kind), "text")


def limits(hint: Any) -> str:
    """The bounds of this type in words, empty where it has none."""
    return " and ".join(str(bound) for bound in _parts(hint)[1])


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, checked; numbers that YAML takes for text (1e-3) become numbers.

    Raises:
        SettingError: not of that type, not finite, out of bounds or not among the choices.
    """
    optional = type(None) in get_args(hint)
    if value is None and optional:
        return None
    kind, bounds = _parts(hint)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown(f"value of {name}:", str(value), get_args(kind))
        return value
    value = _converted(value, get_origin(kind) or kind)
    if not _fits(value, kind):
        raise SettingError(f"{name} is {value!r}; it must be {describe(hint)}")
    if not all(bound.holds(value, bound.limit) for bound in bounds):
        raise SettingError(f"{name} is {value!r}; it must be {limits(hint)}{', or null' if optional else ''}")
    return value


def _parts(hint: Any) -> tuple[Any, list[Bound]]:
    """The type without None and without its bounds, and the bounds."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint) and len(kinds) == 1:
        hint = kinds[0]
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        return kind, bounds
    return hint, []


def _converted(value: Any, kind: type) -> Any:
    """A list of a tuple, a number of its text; anything else as it is."""
    if kind is list and isinstance(value, tuple):
        return list(value)
    if kind is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    return value


def _fits(value: Any, kind: Any) -> bool:
    base = get_origin(kind) or kind
    if not isinstance(value, base) or (isinstance(value, bool) and base is not bool):  # True is an int to isinstance
        return False
    if base is list:
        (of,) = get_args(kind)
        return all(type(item) is of or (of is float and type(item) is int) for item in value)
    return base is not float or math.isfinite(value)


def pixel_fraction(value: float | str) -> float:
    """A number, or a fraction written like 8/255; whether it can be an epsilon is for ``ThreatModel`` to say.

    Raises:
        SettingError: not a number.
    """
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise SettingError(f"epsilon is {value!r}; write a pixel fraction such as 8/255 or 0.03") from error


def duration(name: str, value: float | str) -> float:
    """Seconds, of a number of them or of a text such as 90s, 10m or 1.5h.

    Raises:
        SettingError: neither, or not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds == 0 or isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; write a time above 0 such as 90s, 10m or 1.5h")
    return seconds


def fraction_of_pixels(epsilon: float) -> str:
    """Epsilon as people write it, the reverse of ``pixel_fraction``: 8/255 for 0.03137..., 0.3 for 0.3."""
    levels = round(epsilon * 255, 1)
    in_levels = math.isclose(epsilon * 255, levels, rel_tol=1e-6) and not math.isclose(epsilon, round(epsilon, 3))
    return f"{levels:g}/255" if in_levels else f"{epsilon:.4g}"


def fraction_of(epsilon: float) -> str:
    """What ``pixel_fraction`` reads as exactly this number: 8/255 for 8 / 255, else the number."""
    levels = round(epsilon * 255)
    return f"{levels}/255" if levels and pixel_fraction(f"{levels}/255") == epsilon else repr(epsilon)
