"""The benchmark of fine-tuning: its classes are kept apart, and the guide's table is that of its record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.finetune import SIDE, markdown, split
from PIL import Image

import headstart
from tests.data.pictures import encoded, pixels, write

ROOT = Path(headstart.__file__).parents[2]


def test_classes_are_in_one_part_alone(tmp_path: Path) -> None:
    cells, labels = [encoded(image) for image in pixels(20, size=(64, 64))], [i % 10 for i in range(20)]
    for part in ("train", "valid"):
        write(tmp_path / "data" / f"{part}-0.parquet", cells, labels, image="image")
    for _ in range(2):  # a second time changes nothing
        split(tmp_path / "data", tmp_path / "work")
        found = {
            kind: {
                part: sorted(p.name for p in (tmp_path / "work" / kind / part).iterdir()) for part in ("train", "test")
            }
            for kind in ("pretraining", "fine-tuning")
        }
        held_back = [f"class-{k:02d}" for k in (0, 5)]
        rest = [f"class-{k:02d}" for k in range(10) if k not in (0, 5)]
        assert found == {"pretraining": dict.fromkeys(("train", "test"), rest)} | {
            "fine-tuning": dict.fromkeys(("train", "test"), held_back)
        }
        images = list((tmp_path / "work").rglob("*.png"))
        assert len(images) == 40
        assert {Image.open(path).size for path in images} == {(SIDE, SIDE)}


def test_the_guide_has_the_table_of_the_record() -> None:
    shown = re.search(r"<!-- table finetune -->\n(.*?)<!-- /table -->", (ROOT / "docs/finetune.md").read_text(), re.S)
    record = json.loads((ROOT / "benchmarks/results/epyc2/finetune.json").read_text())
    assert shown is not None
    assert shown[1] == markdown(record)


def test_times_of_the_record_are_equal() -> None:
    """Within the rounding to whole epochs and the noise of a shared machine."""
    rows = json.loads((ROOT / "benchmarks/results/epyc2/finetune.json").read_text())["rows"]
    for network in {row["network"] for row in rows}:
        begun, tuned, same, longer = (row for row in rows if row["network"] == network)
        assert tuned["updates"] == same["updates"]
        whole = begun["processor_seconds"] + tuned["processor_seconds"]
        assert longer["processor_seconds"] == pytest.approx(whole, rel=0.15)
    attacked = [row["evaluation"] for row in rows if row["way"] != "pretraining" and row["evaluation"]]
    assert attacked
    assert {(found["suite"], found["n"]) for found in attacked} == {("standard", 500)}
