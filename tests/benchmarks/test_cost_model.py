"""The cost model's arithmetic, and the table in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.cost_model import IMAGES, Links, Method, Passes, known_passes, predict, reduce_seconds, summary, work
from torch import nn

from benchmarks import cost_model

ROOT = Path(__file__).resolve().parents[2]
LINKS = Links(within=100e9, between=10e9)
PASSES = Passes("made up", forwards=1e-3, input_gradients=1e-3, backwards=2e-3, generator=5e-4)
PLAIN = Method("standard", {"forwards": 1, "input_gradients": 0, "backwards": 1}, 0)
LEARNED = Method("fgsm-sdi", {"forwards": 3, "input_gradients": 2, "backwards": 1}, 1_000)


def hours(method: Method, gpus: int, parameters: int = 10**6) -> float:
    return predict(method, PASSES, gpus=gpus, batch_size=100, epochs=10, parameters=parameters, links=LINKS)["hours"]


def test_one_gpu_makes_the_passes_of_all_images() -> None:
    assert hours(PLAIN, 1) == pytest.approx(10 * IMAGES * 3e-3 / 3600)
    generator = 5e-4 * (1 + 3 / 20)
    assert hours(LEARNED, 1) == pytest.approx(10 * IMAGES * (7e-3 + generator) / 3600)


def test_gpus_share_the_images_and_pay_for_the_sum() -> None:
    assert hours(PLAIN, 8, parameters=0) == pytest.approx(hours(PLAIN, 1) / 8)
    assert hours(PLAIN, 8) > hours(PLAIN, 1) / 8
    assert hours(PLAIN, 64) > hours(PLAIN, 1) / 64


def test_the_slowest_link_decides() -> None:
    assert reduce_seconds(1e9, 1, LINKS) == 0
    assert reduce_seconds(1e9, 8, LINKS) == pytest.approx(2 * 7 / 8 / 100)
    assert reduce_seconds(1e9, 64, LINKS) == pytest.approx(2 * 63 / 64 / 10)


def test_work_of_a_network() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 16, 2))
    counted = work(network, (3, 4, 4))
    assert counted.values == 5 * 16
    assert counted.flops == 2 * (5 * 16 * 3 * 9 + 5 * 16 * 2)


def test_a_record_of_the_network_itself_is_preferred(tmp_path: Path) -> None:
    carried = known_passes(ROOT / "benchmarks" / "results" / "h100")
    assert [passes.source.split(",")[0] for passes in carried] == [
        "ResNet-18 by operations",
        "ResNet-18 by values written",
    ]
    record = {
        "batch_size": 128,
        "pass_seconds": {"forwards": 1.28, "input_gradients": 2.56, "backwards": 3.84},
        "generator_seconds": 0.64,
        "environment": {"device": "a GPU"},
    }
    (tmp_path / "passes-imagenet.json").write_text(json.dumps(record))
    (measured,) = known_passes(tmp_path)
    assert (measured.forwards, measured.input_gradients, measured.backwards) == pytest.approx((0.01, 0.02, 0.03))
    assert measured.generator == pytest.approx(0.005)


def test_documentation_shows_the_stored_table() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "cost_model.json").read_text())
    section = (ROOT / "docs" / "scaling.md").read_text().split("## Cost model", 1)[1]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    table = [row for row in rows if row[0] in cost_model.METHODS]
    assert table == summary(record)
