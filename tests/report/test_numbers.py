"""How numbers are written, and their spread."""

from __future__ import annotations

import pytest

from headstart.report.numbers import budget, sampling_interval, spread


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
