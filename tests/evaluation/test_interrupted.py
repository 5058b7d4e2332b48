"""Whatever interrupts ``headstart evaluate``, no finished attack is lost before its record is on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from headstart.commands.main import main
from headstart.evaluation import evaluate as evaluation
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.devices import by_first
from headstart.models import build_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with weights that say they were trained on digits."""
    args = {"widths": [4, 8]}
    origin = {
        "model": "small", "model_args": json.dumps(args), "classes": json.dumps([str(k) for k in range(10)]),
        "channels": "1", "data": "digits", "epsilon": "0.05", "norm": "linf",
    }  # fmt: skip
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    save_file(build_model("small", 10, 1, args).state_dict(), tmp_path / "run" / "model.safetensors", origin)
    return tmp_path / "run"


def evaluate(run: Path) -> int:
    return main(["evaluate", str(run), "--suite", "light", "--n", "30", "--device", "cpu"])


@contextmanager
def interrupted_in(name: str) -> Iterator[None]:
    """Ctrl-C as soon as the evaluation calls this."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, name, stop)
        yield


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attack of each batch, as they come."""
    seen: list[str] = []
    call = Attacker.__call__

    def noted(self: Attacker, x: Tensor, y: Tensor, seed: int) -> Any:
        seen.append(self.name)
        return call(self, x, y, seed)

    monkeypatch.setattr(Attacker, "__call__", noted)
    return seen


def test_finished_attacks_are_kept_until_the_record_is_written(run: Path, attacks: list[str], capsys: Capture) -> None:
    with interrupted_in("write_text"):
        assert evaluate(run) == 130
    assert "the same command continues after the last finished attack" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()
    assert attacks == ["fgsm", "pgd-20"]
    assert evaluate(run) == 0
    assert attacks == ["fgsm", "pgd-20"], "none is run again"
    assert json.loads((run / "evaluation.json").read_text())["n"] == 30
    assert sorted(path.name for path in run.iterdir()) == ["evaluation.json", "model.safetensors"]


def test_copies_of_training_images_are_looked_for_before_the_attacks(run: Path, attacks: list[str]) -> None:
    with interrupted_in("warnings_of_overlap"):
        assert evaluate(run) == 130
    assert attacks == [], "nothing that could be lost"


def test_an_unknown_suite_is_refused_before_images_are_compared(run: Path, capsys: Capture) -> None:
    with interrupted_in("warnings_of_overlap"):
        assert main(["evaluate", str(run), "--suite", "pdg"]) == 2
    assert "unknown suite 'pdg'; did you mean 'pgd'" in capsys.readouterr().err


@pytest.mark.dist
def test_one_process_looks_for_copies_and_all_are_told(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found == [{"told": ["by 0"], "looked": True}, {"told": ["by 0"], "looked": False}]
    assert by_first(lambda: ["alone"]) == ["alone"]


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    looked = []

    def look() -> list[str]:
        looked.append(rank)
        return [f"by {rank}"]

    told = by_first(look)
    (Path(folder) / f"{rank}.json").write_text(json.dumps({"told": told, "looked": bool(looked)}))
    dist.destroy_process_group()
