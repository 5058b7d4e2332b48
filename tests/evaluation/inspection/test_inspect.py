"""An inspection of real runs: what of a folder, of weights alone and of other tasks comes out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.api import train
from headstart.commands.main import main
from headstart.errors import UserError
from headstart.evaluation.inspection.history import history
from headstart.evaluation.inspection.inspect import inspect
from headstart.evaluation.inspection.starts import starts
from headstart.evaluation.inspection.surface import POINTS
from headstart.evaluation.settings import EvaluationSettings
from headstart.evaluation.subject import find_subject
from headstart.recipes.reader import load_recipe
from headstart.report.inspect_figures import PANELS
from headstart.runs.checkpoint import load_state

pytestmark = pytest.mark.slow
SHORT: dict[str, Any] = {
    "epochs": 3,
    "max_steps": 20,
    "model_args": {"widths": [4, 8]},
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of some methods, one and a bit epochs each. Tests only read it."""
    out = tmp_path_factory.mktemp("runs")
    sdi = {"generator_width": 4, "generator_every": 1}
    train("digits/fgsm-sdi", out / "fgsm-sdi", keep=3, method_args=sdi, **SHORT)
    train("digits/fgsm-rs", out / "in-l2", norm="l2", epsilon=1.0, **SHORT)
    train("digits/fgsm-ep", out / "fgsm-ep", **SHORT)
    return out


def test_a_run_is_looked_into(folder: Path) -> None:
    found = inspect([str(folder / "fgsm-sdi")], n=3, sample=10, device="cpu", batch_size=4)
    (run,) = found["runs"]
    assert (found["epsilon"], found["n"], found["sample"], run["name"]) == (0.25, 3, 10, "fgsm-sdi")
    assert [len(run["surface"][key]) for key in ("line", "predicted", "step", "mean", "right")] == [POINTS] * 5
    assert len(run["surface"]["lines"]) == 3
    assert len(run["falls"]) == len(run["margins"]["attacked"]) == sum(map(sum, run["confusion"])) == 10
    assert run["attention"]["layer"] == "layer2"
    assert run["pictures"]["attention"]["clean"].shape == (3, 8, 8)
    assert [at["epoch"] for at in run["starts"]["epochs"]] == [1]
    assert run["pictures"]["starts"][0]["initial"].shape == (3, 8, 8)
    row = run["history"][0]
    assert row["epoch"] == 1
    assert -1 <= row["linearity"] <= 1
    json.dumps({key: value for key, value in run.items() if key != "pictures"})


def test_the_start_is_the_generators_own_and_nothing_is_trained(folder: Path) -> None:
    path = folder / "fgsm-sdi"
    recipe = load_recipe(str(path / "config.yaml"))
    subject = find_subject(str(path), EvaluationSettings(n=16))
    x, y = subject.test.tensors()
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    (found,) = starts(path, recipe, subject.network, x.float() / 255, y)
    assert found.initial is not None
    assert found.initial.abs().max() <= found.epsilon
    assert found.final.abs().max() <= found.epsilon + 1e-6
    torch.testing.assert_close(found.initial + found.step, found.final)
    assert all(torch.equal(before[name], value) for name, value in subject.network.state_dict().items())
    again = starts(path, recipe, subject.network, x.float() / 255, y)[0]
    assert torch.equal(found.final, again.final), "a generator that learned would propose something else"
    clock = load_state(path / "checkpoints" / "epoch-0001.pt")["clock"]
    assert found.epsilon == pytest.approx(0.25 * min(1, clock["update"] / clock["updates"] / recipe.epsilon_ramp))


def test_runs_without_something_to_show_say_why(folder: Path) -> None:
    weights = str(folder / "fgsm-sdi" / "model.safetensors")
    found = inspect([weights, str(folder / "fgsm-ep")], n=2, sample=4, device="cpu")
    alone, remembers = found["runs"]
    assert alone["name"] == "model"
    assert alone["history"] == []
    assert "weights alone" in alone["starts"]["why"]
    assert "fgsm-ep starts from what it remembers" in remembers["starts"]["why"]


def test_the_euclidean_norm(folder: Path) -> None:
    (run,) = inspect([str(folder / "in-l2")], n=2, sample=4, device="cpu")["runs"]
    assert run["starts"]["epochs"][0]["epsilon"] > 0
    sizes = [value for value in run["falls"] if value]
    assert all(0 < size <= 4 for size in sizes)


@pytest.mark.parametrize(
    ("sources", "fields", "said"),
    [
        (("fgsm-sdi", "in-l2"), {}, "differ in norm: linf and l2; give one for all"),
        (("fgsm-sdi", "fgsm-sdi"), {}, "two of the runs are called 'fgsm-sdi'|inspect each run once"),
        (("fgsm-sdi",), {"n": 0}, "n is 0 and sample 200"),
        (("fgsm-sdi",), {"n": 501, "sample": 600}, "n is 501; digits .test. has 500 images"),
        (("fgsm-sdi",), {"suite": "pgd"}, "suite is a setting of an evaluation, not of an inspection"),
        (("nothing",), {}, "does not exist; give a run folder"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    sources: tuple[str, ...], fields: dict[str, Any], said: str, folder: Path
) -> None:
    with pytest.raises(UserError, match=said):
        inspect([str(folder / source) for source in sources], device="cpu", **fields)


def test_records_of_earlier_versions_and_broken_ones(tmp_path: Path) -> None:
    assert history(tmp_path) == []
    row = {"epoch": 1, "epsilon": 0.1, "collapsed": False, "val": {"clean": 0.9, "fgsm": 0.5, "pgd": 0.4, "n": 10}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = history(tmp_path)
    assert "linearity" not in found
    assert found["pgd"] == 0.4
    (tmp_path / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read as the record of a run"):
        history(tmp_path)


def test_the_command_writes_page_figures_and_numbers(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--n", "2", "--sample", "4", "--device", "cpu", "--out", str(out)]
    assert main(["inspect", str(folder / "fgsm-sdi"), str(folder / "fgsm-ep"), *flags]) == 0
    assert len((out / "inspection.html").read_bytes()) < 1_000_000
    numbers = json.loads((out / "inspection.json").read_text())
    assert "pictures" not in numbers
    assert "pictures" not in numbers["runs"][0]
    names = {panel.name for panel in PANELS} | {"standing", "linearity"}
    assert {file.name for file in (out / "figures").iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("svg", "pdf")
    }
    side_by_side = (out / "figures" / "loss-surface.svg").read_text()
    assert "fgsm-sdi" in side_by_side
    assert "fgsm-ep" in side_by_side
