"""The drawing of "Robust in little time" shows its records, all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from website.pages import ROOT
from website.pictures import OUT
from website.robustness import BASELINES, MACHINES, dots_of, draw, figure_of, numbers_of


def test_every_machine_with_a_ladder_has_its_panel() -> None:
    folders = {path.parent.name for path in (ROOT / "benchmarks" / "results").glob("*/time-to-robustness")}
    assert folders == {*MACHINES}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_record_is_in_a_dot(machine: str) -> None:
    paths = (ROOT / "benchmarks" / "results" / machine / "time-to-robustness" / "steps").glob("*.json")
    records = [json.loads(path.read_text()) for path in paths]
    dots = {(dot.budget, dot.step): dot for dot in dots_of(machine)}
    assert {(record["budget"], record["step"]) for record in records} == {*dots}
    for (budget, step), dot in dots.items():
        robust = [made["pgd-20"] for made in records if (made["budget"], made["step"]) == (budget, step)]
        assert dot.robust == pytest.approx(sum(robust) / len(robust))
        assert dot.interval[0] < dot.robust + 1e-9 < dot.interval[1]


def test_baselines_are_apart_from_steps() -> None:
    axes = figure_of({"epyc2": "one"}).axes[0]
    shown = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
    dots = dots_of("epyc2")
    kinds = [[dot for dot in dots if dot.step not in BASELINES]]
    kinds += [[dot for dot in dots if dot.step == name] for name in BASELINES]
    assert kinds[0]
    assert shown == [[100 * dot.robust for dot in kind] for kind in kinds]


def test_the_drawing_is_of_the_records_of_today(tmp_path: Path) -> None:
    """``python -m website.robustness`` draws it anew."""
    draw(tmp_path)
    stored, anew = ((folder / "time-to-robustness.svg").read_text() for folder in (OUT, tmp_path))
    said = [re.findall(r"<dc:description>(.*?)</dc:description>", text, re.S) for text in (stored, anew)]
    assert said[0] == said[1] == [numbers_of(MACHINES)]
