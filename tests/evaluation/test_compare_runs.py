"""``headstart compare`` of models that are still to be evaluated: what is seen first, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from headstart.commands.main import main
from headstart.evaluation.attacker import Attacker
from headstart.models import build_model

Capture = pytest.CaptureFixture[str]


def weights(folder: Path, seed: int, **changes: str) -> Path:
    """A run of a network on digits, as it was at the start."""
    args = {"widths": [4, 8]}
    origin = {
        "model": "small", "model_args": json.dumps(args), "classes": json.dumps([str(k) for k in range(10)]),
        "channels": "1", "data": "digits", "epsilon": "0.05", "norm": "linf",
    }  # fmt: skip
    torch.manual_seed(seed)
    folder.mkdir()
    save_file(build_model("small", 10, 1, args).state_dict(), folder / "model.safetensors", origin | changes)
    return folder


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return weights(tmp_path / "a", 0)


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return weights(tmp_path / "b", 1)


class Attacks(list[str]):
    """The attack of each batch, as they come; the next one after ``most`` is interrupted."""

    most = -1


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> Attacks:
    seen, call = Attacks(), Attacker.__call__

    def noted(self: Attacker, x: Tensor, y: Tensor, seed: int) -> Any:
        if len(seen) == seen.most:
            raise KeyboardInterrupt
        seen.append(self.name)
        return call(self, x, y, seed)

    monkeypatch.setattr(Attacker, "__call__", noted)
    return seen


def compare(a: Path | str, b: Path | str, *more: str) -> int:
    return main(["compare", str(a), str(b), "--suite", "light", "--n", "20", "--device", "cpu", *more])


def files(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("nowhere.safetensors", "nowhere.safetensors"),
        ("epsilon", r"would be measured on different values of epsilon (0.05 and 0.1); give epsilon"),
        ("norm", r"would be measured on different norms (linf and l2); evaluate both by one norm"),
        ("classes", "model.safetensors is for 10 classes, the network small here for 3"),
    ],
)
def test_the_second_is_looked_at_before_the_first_is_attacked(
    second: str, said: str, a: Path, tmp_path: Path, attacks: Attacks, capsys: Capture
) -> None:
    changes = {"epsilon": {"epsilon": "0.1"}, "norm": {"norm": "l2"}, "classes": {"classes": '["x", "y", "z"]'}}
    b = weights(tmp_path / "b", 1, **changes[second]) if second in changes else tmp_path / second
    assert compare(a, b) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert attacks == []
    assert files(a) == ["model.safetensors"]


def test_a_record_of_other_images_is_refused_before_the_other_run_is_attacked(
    a: Path, b: Path, attacks: Attacks, capsys: Capture
) -> None:
    other = {"suite": "light", "n": 20, "epsilon": 0.05, "norm": "linf", "images": "3f", "robust": 1.0}
    (a / "evaluation.json").write_text(json.dumps({**other, "broken_by": [None] * 20}))
    assert compare(a, b) == 2
    assert "would be measured on different images; give suite and n, or data" in capsys.readouterr().err
    assert attacks == []


def test_what_is_measured_is_kept_as_the_record_of_each_run(a: Path, b: Path, attacks: Attacks) -> None:
    assert compare(a, b) == 0
    assert attacks == ["fgsm", "pgd-20"] * 2
    assert files(a) == files(b) == ["evaluation.json", "model.safetensors"]
    assert compare(a, b) == 0
    assert len(attacks) == 4, "none is run again"
    assert main(["evaluate", "--replay", str(a / "evaluation.json"), "--device", "cpu"]) == 0


def test_an_interrupted_comparison_goes_on(a: Path, b: Path, attacks: Attacks) -> None:
    attacks.most = 3
    assert compare(a, b) == 130
    assert files(a) == ["evaluation.json", "model.safetensors"]
    assert files(b) == ["evaluation.partial.safetensors", "model.safetensors"]
    attacks.most = -1
    assert compare(a, b) == 0
    assert attacks == ["fgsm", "pgd-20"] * 2


def test_a_record_of_something_else_stays_and_nothing_is_lost(a: Path, b: Path, attacks: Attacks) -> None:
    assert main(["evaluate", str(a), "--suite", "fgsm", "--n", "10", "--device", "cpu"]) == 0
    before = (a / "evaluation.json").read_text()
    del attacks[:]
    attacks.most = 3
    assert compare(a, b) == 130
    assert files(a) == ["compare.partial.safetensors", "evaluation.json", "model.safetensors"]
    attacks.most = -1
    assert compare(a, b) == 0
    assert attacks == ["fgsm", "pgd-20"] * 2
    assert files(a) == ["evaluation.json", "model.safetensors"]
    assert (a / "evaluation.json").read_text() == before


def test_a_run_that_cannot_be_written_to_is_compared_all_the_same(
    a: Path, b: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (a / "evaluation.json.part").mkdir()
    assert compare(a, b) == 0
    assert "evaluation.json (" in capsys.readouterr().err
    assert not (a / "evaluation.json").exists()


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize("out", ["", "model.safetensors/deep.json"])
def test_what_cannot_be_written_is_refused_before_the_attacks(
    command: str, out: str, a: Path, b: Path, attacks: Attacks, capsys: Capture
) -> None:
    """A folder, and a place below a file."""
    sources = [str(a), str(b)] if command == "compare" else [str(a)]
    assert main([command, *sources, "--suite", "fgsm", "--n", "20", "--device", "cpu", "--out", str(a / out)]) == 2
    assert "headstart: cannot write" in capsys.readouterr().err
    assert attacks == []
