"""How numbers are written, and their spread."""

from __future__ import annotations

import pytest

from headstart.report.numbers import budget, level, sampling_interval, spread


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [(8 / 255, "8/255"), (1.5 / 255, "1.5/255"), (0.3, "0.3"), (0.03125, "0.03125"), (0.0625, "0.0625"), (0.0, "0")],
)
def test_budget(epsilon: float, said: str) -> None:
    assert budget(epsilon) == said


def test_spread_is_the_sample_standard_deviation_of_what_is_there() -> None:
    found = spread([2.0, 4.0, None, 9.0])
    assert found is not None
    assert found.mean == 5.0
    assert found.std == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    single = spread([3.0])
    assert single is not None
    assert single.std is None
    assert spread([None]) is None


def test_the_sampling_interval_is_wilsons() -> None:
    # Known values: 10 of 100 and 0 of 500 at 95 %.
    assert sampling_interval(0.10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert sampling_interval(0.0, 500) == pytest.approx((0.0, 0.00762), abs=1e-4)


def test_the_interval_of_a_mean_is_for_other_images_and_other_seeds() -> None:
    found = spread([0.4, 0.5, 0.6], n=100)
    assert found is not None
    # Wilson of 50 in 100: 40.4 to 59.6; t of two degrees of freedom is 4.303: 4.303 * 0.1 / sqrt(3) = 0.2484.
    assert found.interval == pytest.approx((0.5 - 0.2664, 0.5 + 0.2664), abs=1e-3)
    near_zero = spread([0.0, 0.1], n=100)
    assert near_zero is not None
    assert near_zero.interval is not None
    assert near_zero.interval[0] == 0
    assert spread([0.4, 0.5]).interval is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [((56, 70), (48, 80), False), ((9, 10), (3, 10), False), ((6, 7), (2, 7), False), ((5, 56), (0, 29), True)],
)
def test_level_is_what_newcombes_interval_leaves_open(a: tuple[int, int], b: tuple[int, int], equal: bool) -> None:
    """Examples of Newcombe (1998, table II, method 10): lower ends 0.0524, 0.1705, 0.0582 and -0.0381."""
    first, second = (spread([x / n], n) for x, n in (a, b))
    assert first is not None
    assert second is not None
    assert level(first, second) == equal
