"""How numbers are written."""

from __future__ import annotations

import pytest

from headstart.report.tables import budget


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [(8 / 255, "8/255"), (1.5 / 255, "1.5/255"), (0.3, "0.3"), (0.03125, "0.03125"), (0.0625, "0.0625"), (0.0, "0")],
)
def test_budget(epsilon: float, said: str) -> None:
    assert budget(epsilon) == said
