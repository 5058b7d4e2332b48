"""Several processes: who starts them, one that dies, one that is told to stop."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headstart.errors import UserError
from headstart.runs.launch import launched, make_fabric
from tests.training.runs import records, tiny

FLAGS = (
    "--epochs 6 --batch_size 256 --val_size 64 --seed 3 --average 0.9 --checkpoint_every 3 "
    "--model fast --model_args.widths [4,8] --optimizer muon"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SECONDS = 240

# Stands in for the command; the second process is told to stop in the first attempt, and dies in the second.
ILL_FATED = """
import os, signal, sys
from headstart.commands.main import main
from headstart.training.train import Trainer

update, attempt = Trainer.update, int(os.environ["TORCHELASTIC_RESTART_COUNT"])

def ill_fated(self, batch):
    if os.environ["RANK"] == "1" and (attempt, self.clock.update) in [(0, 7), (1, 17)]:
        os.kill(os.getpid(), [signal.SIGTERM, signal.SIGKILL][attempt])
    update(self, batch)

Trainer.update = ill_fated
sys.exit(main())
"""


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    threads = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env={**os.environ, **threads, **environment}, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.dist
def test_restarted_processes_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Stopped at update 8, killed at 17 and restarted each time, two processes end in the bits of two left alone."""
    train = ["train", "digits/fgsm-rs", *shlex.split(FLAGS)]
    run([sys.executable, "-m", "headstart", *train, "--devices", "2", "--out", str(tmp_path / "whole")])
    script = tmp_path / "script.py"
    script.write_text(ILL_FATED)
    command = [*TORCHRUN, "--max-restarts", "2", str(script), *train, "--resume", "--out", str(tmp_path / "broken")]
    told = run(command, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1").stderr
    assert told.count("interrupted; the state is saved") == 1
    assert told.count("headstart: process 0 lost another process of the run") == 1
    assert "Traceback" not in told
    assert records(tmp_path / "broken") == records(tmp_path / "whole")


def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)


def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "training"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_the_launcher_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch, launcher: object) -> None:
    assert launched(tiny()) == tiny()
    launcher(monkeypatch)  # type: ignore[operator]
    found = launched(tiny())
    assert (found.devices, found.num_nodes) == (4, 2)
    assert launched(found) == found
    with pytest.raises(UserError, match=r"started 4 processes on each of 2 nodes, but devices is 2 and num_nodes 1"):
        launched(tiny(devices=2))
    with pytest.raises(UserError, match="batch_size 60 does not divide among 8 processes"):
        launched(tiny(batch_size=60))


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only where there is no CUDA device")
def test_synchronised_batch_norm_is_refused_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sync_batch_norm needs CUDA"):
        make_fabric(tiny(sync_batch_norm=True), tmp_path)
