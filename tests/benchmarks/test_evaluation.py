"""The benchmark of AutoAttack, on a few images: each contestant in a process of its own, side by side in the record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import evaluation

IMAGES = 3


@pytest.mark.slow
def test_contestants_attack_the_same_images_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, out = ["--models", "digits", "--epochs", "1", "--work", str(tmp_path)], tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", ["evaluation.py", *work, "--n", str(IMAGES), "--out", str(out)])
    evaluation.main()
    record = json.loads(out.read_text())
    assert record["models"]["digits"]["n"] == IMAGES
    plain, ours = (record["models"]["digits"]["contestants"][name] for name in ("plain", "auto"))
    assert ours["rows_unlike_plain"] == []
    assert ours["robust"] == plain["robust"]
    assert len(ours["precisions"]) == 1, "one for each slice"
    assert ours["cpu_seconds_to_plain"] == ours["cpu_seconds"] / plain["cpu_seconds"]
    assert 0 < record["passes"]["digits"]["share of convolutions"] < 1
