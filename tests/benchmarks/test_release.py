"""Release files: cut, joined, and damaged on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.release import main

from headstart.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "cifar10-fgsm-sdi")
    folder.checkpoints.mkdir(parents=True)
    folder.weights.write_bytes(bytes(range(256)) * 100)
    folder.config.write_text("method: fgsm-sdi\n")
    folder.last.write_bytes(b"state")
    return folder


def test_a_run_comes_back_without_its_training_state(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cut", str(run.path), "--to", str(tmp_path / "release"), "--megabytes", "0.01"]) == 0
    parts = sorted((tmp_path / "release").glob("*.tar.0*"))
    assert len(parts) > 2
    assert all(part.stat().st_size <= 0.01 * 2**20 for part in parts)
    assert str(parts[0]) in capsys.readouterr().out

    assert main(["join", str(parts[0]), "--to", str(tmp_path / "back")]) == 0
    back = RunFolder(tmp_path / "back" / "cifar10-fgsm-sdi")
    assert back.weights.read_bytes() == run.weights.read_bytes()
    assert back.config.read_text() == run.config.read_text()
    assert not back.checkpoints.exists()
    assert not list((tmp_path / "back").glob("*.tar*"))


def test_a_damaged_file_is_named(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cut", str(run.path), "--to", str(tmp_path), "--megabytes", "0.01"])
    second = tmp_path / "cifar10-fgsm-sdi.tar.001"
    second.write_bytes(second.read_bytes()[:-1])
    assert main(["join", str(second.with_suffix(".000")), "--to", str(tmp_path / "back")]) == 2
    assert capsys.readouterr().err == f"{second} is missing or damaged; fetch it again\n"
    assert not (tmp_path / "back").exists()


def test_only_finished_runs_are_released_and_nothing_is_overwritten(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cut", str(run.path), "--to", str(tmp_path)])
    assert main(["join", str(tmp_path / "cifar10-fgsm-sdi.tar.000"), "--to", str(tmp_path / "runs")]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err
    run.weights.unlink()
    assert main(["cut", str(run.path), "--to", str(tmp_path)]) == 2
    assert "it is no finished run" in capsys.readouterr().err
