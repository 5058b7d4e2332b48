"""The benchmark of kept memory: the guide's table is that of its record."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.page_faults import NETWORKS, markdown, measured

import headstart

ROOT = Path(headstart.__file__).parents[2]


def test_the_guide_has_the_table_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks/results/epyc2/page-faults.json").read_text())
    assert {row["network"] for row in record["rows"]} <= set(NETWORKS)
    assert f"<!-- table page-faults -->\n{markdown(record)}<!-- /table -->" in (ROOT / "docs/fast.md").read_text()


def test_what_is_measured() -> None:
    for what in ("update", "attack"):
        found = measured(what, "small of cifar10-small", "fp32", "returned")
        assert set(found) == {"user_ms", "system_ms", "faults", "peak_megabytes"}
        assert found["user_ms"] > 0
