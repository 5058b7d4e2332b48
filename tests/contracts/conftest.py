"""Every contract test that takes ``name`` runs for every registered method that has a row in the table."""

from __future__ import annotations

import pytest
import torch

from headstart.core import Method, TaskInfo
from headstart.methods.registry import build_method, methods
from tests.contracts.expectations import EXPECTED, Expected
from tests.helpers import info


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", [name for name in methods() if name in EXPECTED])


@pytest.fixture
def expects(name: str) -> Expected:
    return EXPECTED[name]


def build(name: str, seed: int = 0, task: TaskInfo | None = None) -> Method:
    """The method under its settings of the table; parts with weights of their own depend on ``seed``."""
    torch.manual_seed(seed)
    return build_method(name, task or info(), EXPECTED[name].settings)
