"""The step timings at a tiny scale: what a row says, how a record grows, and what the passes of an interval are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.timing import MethodStep, Workload, in_turns, pass_seconds, peak_bytes

from benchmarks import steps

CPU = torch.device("cpu")


def call(out: Path, *flags: str) -> list[dict[str, Any]]:
    steps.main(["--out", str(out), "--models", "small", "--batch_size", "4", "--rounds", "1", *flags])
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def test_record_grows_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "steps.json"
    (sdi,) = call(out, "--precisions", "fp32", "--only", "fgsm-sdi")
    assert sdi["ratio_to_literal"] == pytest.approx(sdi["seconds_per_update"] / sdi["literal_fp32_seconds"])
    assert sdi["images_per_second"] == pytest.approx(4 / sdi["seconds_per_update"])
    counted, prices = sdi["passes_per_update"], sdi["pass_seconds"]
    passes = sum(counted[kind] * prices[kind] for kind in counted)
    assert sdi["bound_seconds"] == pytest.approx(passes + prices["optimizer"] + sdi["generator_seconds"])
    assert 0 < sdi["generator_share"] < 1
    assert sdi["state_bytes"] > 4 * 79_173  # the generator's weights
    rows = call(out, "--precisions", "fp32", "bf16", "--only", "fgsm-sdi", "standard")
    assert sdi["clock"] == "wall"
    assert sdi in rows, "a row that the record had was measured anew"
    assert {(row["precision"], row["method"]) for row in rows} == {
        (precision, method) for precision in ("fp32", "bf16") for method in ("fgsm-sdi", "standard")
    }
    capsys.readouterr()
    assert call(out, "--table") == rows
    assert "fgsm-sdi" in capsys.readouterr().out


def test_record_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    content = {"environment": {"device": "an abacus", "torch": torch.__version__}, "rows": []}
    out.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="made with an abacus"):
        call(out)
    assert json.loads(out.read_text()) == content


def test_targets_name_who_misses_them() -> None:
    rows = [
        {
            "model": "resnet18",
            "precision": "bf16",
            "method": "fgsm-sdi",
            "ratio_to_bound": 1.2,
            "ratio_to_literal": 0.5,
        },
        {
            "model": "resnet18",
            "precision": "bf16",
            "method": "fgsm-rs",
            "ratio_to_bound": 1.05,
            "ratio_to_literal": 0.9,
        },
        {"model": "small", "precision": "bf16", "method": "fgsm", "ratio_to_bound": 9.0},
    ]
    bound, literal = [v for target in steps.TARGETS[:2] for v in target.judge(rows)]
    assert bound["worst"] == {"fgsm-sdi": 1.2}
    assert bound["missed_by"] == ["fgsm-sdi"]
    assert literal["worst"] == {"fgsm-sdi": 0.5}
    assert literal["missed_by"] == []


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("fgsm-sdi", (3.1, 2.1, 1, 0)),
        ("sdi-memory", (2.1, 1.1, 1, 0)),
        ("liet", (2.05, 1.05, 2, 0)),
        ("fgsm-ga", (3, 2, 1, 1)),
        ("fast-bat", (3, 3, 1, 1)),
        ("elle", (5, 1, 4, 0)),
        ("trades-awp", (15, 10, 4, 0)),
        ("gat", (3, 1, 2, 0)),
    ],
)
def test_passes_of_an_interval(name: str, passes: tuple[float, ...]) -> None:
    """In batches: as in the method table, the double backward apart."""
    assert tuple(MethodStep(Workload(CPU, "small", 2), name).passes_per_interval().values()) == pytest.approx(passes)


def test_prices_of_passes() -> None:
    seconds = {"forward": 1.0, "ascend": 1.75, "descend": 3.0, "double backward": 4.75, "optimizer": 0.5}
    assert pass_seconds(seconds) == {
        "forwards": 1.0,
        "input_gradients": 0.75,
        "backwards": 2.0,
        "double_backwards": 3.0,
        "optimizer": 0.5,
    }


def test_an_interval_weighs_its_updates() -> None:
    """One update of twenty has the rare work; the first round warms up."""
    now, calls = 0.0, []

    def step(update: int) -> None:
        nonlocal now
        calls.append(update)
        slow = 100.0 if len(calls) <= 3 else 1.0
        now += slow * {0: 41.0, 1: 1.0, 2: 2.0}[update]

    seconds = in_turns({"step": step}, rounds=3, device=CPU, clock=lambda: now)
    assert seconds["step"] == pytest.approx((41 + 10 * 1 + 9 * 2) / 20)


def test_peak_is_what_lives_at_once() -> None:
    megabyte = 1_000_000

    def step(update: int) -> None:
        first = torch.ones(megabyte, dtype=torch.uint8)
        second = first + 1
        del first
        third = second + 1
        del second, third

    assert peak_bytes(step, CPU) == pytest.approx(2 * megabyte, rel=0.01)
