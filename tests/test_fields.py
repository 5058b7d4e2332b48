"""Fields of settings: what is converted, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import pytest

from headstart.errors import SettingError
from headstart.fields import above, at_least, at_most, below, check_fields, describe, limits, pixel_fraction, typed


@pytest.mark.parametrize(
    ("written", "value"), [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.5, 0.5), (0, 0.0), (1, 1.0)]
)
def test_pixel_fractions(written: Any, value: float) -> None:
    assert pixel_fraction(written) == value


@dataclasses.dataclass(frozen=True)
class Bounded:
    share: Annotated[float, at_least(0), below(1)] = 0.5
    count: Annotated[int, above(0), at_most(3)] | None = None
    tags: list[int] = dataclasses.field(default_factory=list)
    weights: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        check_fields(self)


def test_fields_in_their_bounds() -> None:
    kept = Bounded(share="2e-1", count=3, tags=(1, 2), weights=[0.5, 1])  # type: ignore[arg-type]
    assert (kept.share, kept.count, kept.tags, kept.weights) == (0.2, 3, [1, 2], [0.5, 1])
    for given, said in [
        ({"share": 1}, "share is 1.0; it must be at least 0 and below 1$"),
        ({"share": None}, "share is None; it must be a number$"),
        ({"count": 0}, "count is 0; it must be above 0 and at most 3, or null$"),
        ({"weights": ["x"]}, r"weights is \['x'\]; it must be a list of numbers such as"),
        ({"tags": [0.5]}, r"tags is \[0.5\]; it must be a list of whole numbers such as"),
        ({"count": 4}, "count is 4; it must be above 0 and at most 3, or null$"),
    ]:
        with pytest.raises(SettingError, match=said):
            Bounded(**given)  # type: ignore[arg-type]


def test_types_in_words() -> None:
    hint = Annotated[int, at_least(1), at_most(9)] | None
    assert (describe(hint), limits(hint)) == ("a whole number", "at least 1 and at most 9")
    assert (describe(dict[str, Any]), limits(bool)) == ("keys and values such as {alpha: 0.1}", "")
    assert typed("n", None, hint) is None
    assert typed("n", 9, hint) == 9
