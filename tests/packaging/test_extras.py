"""The library without the packages of its extras: training works, and what needs one says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = (
    "captum",
    "matplotlib",
    "jinja2",
    "tensorboard",
    "huggingface_hub",
    "datasets",
    "sklearn",
    "scipy",
    "pyautoattack",
)
WITHOUT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in {EXTRAS!r} else self.finder.find_spec(name, *rest)

    def find_distributions(self, context):
        return [] if context.name in {EXTRAS!r} else self.finder.find_distributions(context)

sys.meta_path = [Without(finder) if hasattr(finder, "find_distributions") else finder for finder in sys.meta_path]
"""
LOOP = """
import headstart, torch
method = headstart.load_method("fgsm-rs", epsilon="8/255", classes=10, image_shape=(3, 8, 8), updates=2)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
method(model, torch.rand(4, 3, 8, 8), torch.arange(4)).backward()
"""
TRAIN = """
import headstart, torch
images = torch.rand(80, 3, 8, 8), torch.arange(80) % 10
fields = dict(samples=80, val_size=16, batch_size=32, epochs=1, device="cpu", progress=False)
trained = headstart.train("cifar10-tiny/fgsm-rs", {out!r}, data=images, **fields)
evaluation = headstart.evaluate(trained.model, data=images, suite="pgd", epsilon=0.1, n=4, device="cpu", progress=False)
print(evaluation.robust)
"""
NEEDS = {
    "data": "from headstart.data import load; load('digits', 'train')",
    "evaluate": "from headstart.attacks.autoattack import attack_of; from headstart.core.threat import ThreatModel\n"
    "attack_of('square', None, ThreatModel(0.1, 'l2'), classes=10)",
    "report": "import headstart.report",
    "hub": "import headstart; headstart.push",
}


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True)


def test_a_method_in_a_loop_of_ones_own() -> None:
    run = without_extras(LOOP)
    assert run.returncode == 0, run.stderr


def test_training_and_its_evaluation(tmp_path: Path) -> None:
    run = without_extras(TRAIN.format(out=str(tmp_path / "run")))
    assert run.returncode == 0, run.stderr
    assert 0 <= float(run.stdout.split()[-1]) <= 1


@pytest.mark.parametrize(("extra", "code"), NEEDS.items(), ids=NEEDS)
def test_the_error_names_the_extra(extra: str, code: str) -> None:
    run = without_extras(code)
    last = run.stderr.splitlines()[-1]
    assert last.startswith("headstart.errors.MissingPackage: ")
    assert last.endswith(f'is not installed: pip install "headstart[{extra}]"')
