"""Settings from one declaration: the type of a dataclass field says what a value must be."""

from __future__ import annotations

import contextlib
import math
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

from headstart.errors import SettingError, unknown

KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "keys and values such as {alpha: 0.1}",
    list[int]: "a list of whole numbers such as [100, 105]",
    list[float]: "a list of numbers such as [0.1, 0.5]",
}


def describe(hint: Any) -> str:
    """What a value of this type looks like, in words."""
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return KINDS.get(hint) or KINDS.get(get_origin(hint), "text")


def _without_none(hint: Any) -> Any:
    """X for the type X | None; other types as they are."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) and len(kinds) == 1 else hint


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, checked; numbers that YAML takes for text (1e-3) become numbers.

    Raises:
        SettingError: not of that type, not finite, or not among the choices.
    """
    if value is None and type(None) in get_args(hint):
        return None
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(f"value of {name}:", str(value), get_args(hint))
        return value
    kind = get_origin(hint) or hint
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if kind is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    fits &= kind is not float or (fits and math.isfinite(value))
    fits &= kind is not list or (fits and all(type(item) in (int, *get_args(hint)) for item in value))
    if not fits:
        raise SettingError(f"{name} is {value!r}; it must be {describe(hint)}")
    return value


def pixel_fraction(value: float | str) -> float:
    """A number, or a fraction written like 8/255; whether it can be an epsilon is for ``ThreatModel`` to say.

    Raises:
        SettingError: not a number.
    """
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise SettingError(f"epsilon is {value!r}; write a pixel fraction such as 8/255 or 0.03") from error
