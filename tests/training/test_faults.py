"""The short version of benchmarks/faults.py: one fault of every kind that is not tested beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import faults


@pytest.mark.slow
def test_every_struck_run_ends_as_the_one_left_alone(tmp_path: Path) -> None:
    assert faults.main(["--faults", "4", "--out", str(tmp_path / "faults.json")]) == 0
    record = json.loads((tmp_path / "faults.json").read_text())
    assert [trial["kind"] for trial in record["trials"]] == list(faults.KINDS[:4])
    assert record["equal"] == 4
    for trial in record["trials"]:
        saves = 2 if trial["kind"] == "damaged checkpoint" else 1
        assert 0 <= trial["lost"] <= saves * faults.CHECKPOINT_EVERY
