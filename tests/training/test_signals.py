"""A real process that is told to stop, or killed, and the one that takes over."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headstart.commands.main import main
from headstart.data import Batch
from headstart.runs.checkpoint import load_state
from headstart.training.train import Trainer
from tests.training.runs import records

FLAGS = "--epochs 10 --batch_size 256 --val_size 64 --seed 3 --model_args.widths [4,8]"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without any trouble."""
    out = tmp_path_factory.mktemp("signals") / "reference"
    assert main(["train", "digits/fgsm-rs", *shlex.split(FLAGS), "--out", str(out)]) == 0
    return out


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``headstart train``; what is still running at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(out: Path, *flags: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "headstart",
            "train",
            "digits/fgsm-rs",
            *shlex.split(FLAGS),
            *flags,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.mark.slow
def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path,
    reference: Path,
    start: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a run"  # the space must be quoted in the command that is printed
    process = start(out)
    wait_for(out / "checkpoints" / "last.pt", process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert not (out / "model-last.safetensors").exists()
    assert load_state(out / "checkpoints" / "last.pt")["clock"]["update"] > 0
    last = told.strip().splitlines()[-1]
    assert last.startswith("interrupted; the state is saved")
    command = shlex.split(last.split("Continue with: ")[1])
    assert command == ["headstart", "resume", str(out)]
    assert main(command[1:]) == 0
    assert records(out) == records(reference)
    assert main(["train", "digits/fgsm-rs", *shlex.split(FLAGS), "--out", str(out)]) == 2
    assert "exists; continue it with resume" in capsys.readouterr().err


@pytest.mark.parametrize(("signals", "saved"), [(1, 6), (2, 5)])
def test_interrupted_from_the_keyboard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signals: int,
    saved: int,
) -> None:
    """Once, at the sixth update: its state is saved. Twice: it ends at once, with the last checkpoint."""
    update = Trainer.update

    def interrupt(self: Trainer, batch: Batch) -> None:
        if self.clock.update == 5:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)
        update(self, batch)

    monkeypatch.setattr(Trainer, "update", interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert main(["train", "digits/fgsm-rs", *shlex.split(FLAGS), "--out", str(tmp_path)]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" in capsys.readouterr().err
    assert load_state(tmp_path / "checkpoints" / "last.pt")["clock"]["update"] == saved


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(
    tmp_path: Path, reference: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(tmp_path / "run", "--checkpoint_every", "7")
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    time.sleep(0.1)  # somewhere in the second or a later epoch
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "model-last.safetensors").exists()
    arguments = ["train", "digits/fgsm-rs", *shlex.split(FLAGS), "--out", str(tmp_path / "run"), "--resume"]
    assert main(arguments) == 0
    assert records(tmp_path / "run") == records(reference)
