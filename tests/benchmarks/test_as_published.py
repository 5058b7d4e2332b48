"""The comparison with a checkout of published code finds no difference where there is none, and one where there is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.common_noise import CommonNoise

from benchmarks import as_published, peers

# Plain FGSM-RS, written out as such codes write it; {step} is its step over epsilon.
STAND_IN = """
import torch
from torch.nn import CrossEntropyLoss
from utils import Logger, set_seed
import torchattacks


class FGSMRS:
    def __init__(self, model, config, log_dir):
        self.model, self.config, self.eps = model, config, 8.0 / 255
        set_seed(0)
        self.logger = Logger(log_dir)

    def train(self, opt, scheduler, train_loader, val_loader):
        criterion = CrossEntropyLoss(label_smoothing=self.config["label_smoothing"])
        for epoch in range(self.config["total_epoch"]):
            self.model.train()
            for images, labels in train_loader:
                delta = torch.clamp(torch.zeros_like(images).uniform_(-self.eps, self.eps), -images, 1 - images)
                point = (images + delta).requires_grad_()
                criterion(self.model(point), labels).backward()
                delta = torch.clamp(delta + {step} * self.eps * point.grad.sign(), -self.eps, self.eps)
                point = torch.clamp(images + delta, 0, 1)
                opt.zero_grad()
                criterion(self.model(point), labels).backward()
                opt.step()
            scheduler.step()
"""


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def checkout(folder: Path, step: float) -> Path:
    package = folder / "fast_at"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN.replace("{step}", str(step)))
    return folder


def row(folder: Path) -> dict[str, float]:
    (peer,) = [peer for peer in peers.of(folder) if peer.method == "fgsm-rs"]
    found: dict[str, float] = as_published.compared(peer, folder)["all_updates"]
    return found


def test_the_same_method_shows_no_difference(tmp_path: Path) -> None:
    assert max(row(checkout(tmp_path, 1.25)).values()) < 1e-12
    assert "fast_at" not in sys.modules


def test_another_step_shows(tmp_path: Path) -> None:
    found = row(checkout(tmp_path, 1.0))
    assert found["perturbation"] > 0.2
    assert found["gradient"] > 1e-3


def test_a_folder_without_known_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no checkout of FastAT_Benchmark or FGSM-SDI"):
        peers.of(tmp_path)


def test_the_record_is_of_what_is_compared() -> None:
    """At least twelve methods; what is not equal says why."""
    record = json.loads((Path(as_published.__file__).parent / "results" / "as_published.json").read_text())
    rows = {found["method"]: found for found in record["rows"]}
    assert set(rows) == {peer.method for peer in [*peers.BENCHMARK, *peers.AUTHORS]}
    assert len(rows) >= 12
    for found in rows.values():
        assert (max(found["all_updates"].values()) < 1e-6) == (found["reason"] is None), found["method"]


def test_common_noise_does_not_depend_on_the_order_of_other_draws() -> None:
    """Two draws of some images are one of twice as many; channel by channel is the image at once."""

    def drawn(draw: str) -> torch.Tensor:
        noise = CommonNoise()
        with noise.in_force():
            if draw == "twice":
                torch.rand(1)
                return torch.cat([torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4).uniform_()])
            if draw == "by channel":
                images = torch.zeros(4, 3, 4, 4)
                for channel in range(3):
                    images[:, channel].uniform_(0, 1)
                return images
            return torch.rand_like(torch.zeros(4, 3, 4, 4))

    once = drawn("once")
    assert torch.equal(drawn("twice"), once)
    assert torch.equal(drawn("by channel"), once)
    assert 0 <= float(once.min()) < float(once.max()) < 1
