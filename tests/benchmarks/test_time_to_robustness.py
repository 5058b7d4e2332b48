"""Time to robustness: steps are recipes, records are kept, and the table says what they say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from benchmarks.time_to_robustness import LADDERS, LARGER, TRAINED, tables

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.methods.registry import build_method
from headstart.models import build_model
from headstart.models.weights import read_file
from headstart.recipes.reader import load_recipe
from headstart.training.train import train
from tests.training.runs import tiny

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize(("budget", "step"), [(budget, step) for budget, rungs in LADDERS.items() for step in rungs])
def test_a_step_is_a_recipe(budget: int, step: str) -> None:
    rung = LADDERS[budget][step]
    recipe = rung.load()
    build_model(recipe.model, 10, 3, recipe.model_args)
    assert rung.recipe == "cifar10-small/fgsm-rs" or recipe.precision == "bf16"
    assert recipe.schedule == "triangular"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/time-to-robustness/steps/*.json")), ids=lambda path: path.stem)
def test_a_record_is_of_the_step_that_it_names(path: Path) -> None:
    """The recipe that was trained is still what the ladder says: else a step was changed and its record was not."""
    made = json.loads(path.read_text())
    rung = LADDERS[made["budget"]][made["step"]]
    said = asdict(rung.load(**TRAINED, data="cifar10", seed=made["seed"]))
    assert (made["what"], made["recipe_name"]) == (rung.what, rung.recipe)
    assert made["recipe"] == {key: said[key] for key in made["recipe"]}


@pytest.mark.parametrize(
    ("budget", "step"), [(b, s) for b, rungs in LADDERS.items() for s, rung in rungs.items() if rung.weights]
)
def test_steps_share_a_training_that_is_the_same(budget: int, step: str) -> None:
    """What is told apart takes part in no pass of training."""
    rung = LADDERS[budget][step]
    assert rung.weights is not None
    recipe, trained = (asdict(made.load()) for made in (rung, LADDERS[budget][rung.weights]))
    differ = recipe["model_args"].pop("mirrored", False), trained["average"] and not recipe["average"]
    assert sum(map(bool, differ)) == 1
    assert {**recipe, "average": trained["average"]} == trained


def test_weights_that_are_not_averaged_are_those_of_a_run_without_an_average(tmp_path: Path) -> None:
    runs = [tmp_path / "averaged", tmp_path / "plain"]
    for run, average in zip(runs, (0.9, 0.0), strict=True):
        train(tiny(average=average, max_steps=4, device="cpu"), run, progress=False)
    averaged, last = (read_file(run / "model-last.safetensors").tensors for run in runs)
    live = read_file(runs[0] / "checkpoints" / "last.pt").tensors
    assert all(torch.equal(live[name], last[name]) for name in last)
    assert not all(torch.equal(averaged[name], last[name]) for name in last)


def test_the_book_is_the_step_with_the_highest_accuracy_under_autoattack() -> None:
    """It names epsilon as it is evaluated, so that larger noise and step (``LARGER``) make up for it.

    Validation, which takes no part in training, is its own.
    """
    book, step = asdict(load_recipe("cifar10-fast/n-fgsm")), asdict(LADDERS[7200]["silu-mirrored"].load())
    assert (book.pop("epsilon"), book.pop("method_args")) == (8 / 255, LARGER)
    assert (step.pop("epsilon"), step.pop("method_args")) == (10 / 255, {})
    assert (book.pop("eval_every"), step.pop("eval_every")) == (5, 1)
    assert book == step
    robust: dict[str, list[float]] = {}
    for path in RESULTS.glob("*/time-to-robustness/steps/7200-*.json"):
        if (made := json.loads(path.read_text()))["autoattack"] is not None:
            robust.setdefault(made["step"], []).append(made["autoattack"])
    assert max(robust, key=lambda step: mean(robust[step])) == "silu-mirrored"


def test_larger_noise_and_step_are_n_fgsm_at_10_255() -> None:
    """N-FGSM does not project, so that noise and step alone say how far it goes: one loss, and one weight gradient."""
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 8, 8), torch.randint(0, 10, (8,))
    network = build_model("small", 10, 3, {})
    found = []
    for epsilon, settings in ((8 / 255, LARGER), (10 / 255, {}), (8 / 255, {})):
        threat = ThreatModel(epsilon)
        method = build_method("n-fgsm", TaskInfo(10, (3, 8, 8), threat, 8, 8, 1, 1), settings)
        torch.manual_seed(1)
        loss = method(Target(network), Step(x, y, threat, Clock()))
        found.append((loss.detach(), torch.autograd.grad(loss, next(iter(network.parameters())))[0]))
    (loss, grad), (loss_at_10, grad_at_10), (loss_at_8, _) = found
    torch.testing.assert_close(loss, loss_at_10, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad, grad_at_10, rtol=1e-3, atol=1e-5)
    assert abs(float(loss - loss_at_8)) > 1e-3


def record(step: str, seed: int, pgd: float, autoattack: float | None = None) -> dict[str, Any]:
    return {
        "budget": 60,
        "step": step,
        "what": f"the step {step}",
        "seed": seed,
        "processor_seconds": 60.4,
        "clean": 0.5,
        "pgd-20": pgd,
        "images": 500,
        "autoattack": autoattack,
        "recipe": {"epochs": 2, "samples": None},
    }


def test_the_table_has_a_row_for_every_step(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    made = [record("a", 0, 0.3, 0.25), record("a", 1, 0.32, 0.26), record("b", 0, 0.2)]
    made += [record("c", 0, 0.35, 0.3), record("c", 1, 0.35)]
    for i, content in enumerate(made):
        (tmp_path / "steps" / f"{i}.json").write_text(json.dumps(content))
    assert tables(tmp_path)["60"].splitlines()[2:] == [
        "| the step b | 1 | 2 | 60 | 50.0 | 20.0 | - |",
        "| the step a | 2 | 2 | 60 ± 0 | 50.0 ± 0.0 | 31.0 ± 1.4 | 25.5 ± 0.7 |",
        "| the step c | 2 | 2 | 60 ± 0 | 50.0 ± 0.0 | 35.0 ± 0.0 | 30.0 (1 of 2 seeds) |",
    ]


def test_operations_are_those_of_five_forwards(tmp_path: Path) -> None:
    row = {"parameters": 1_500_000, "million_multiplications": 20.0, "images_per_processor_second": 500.0}
    (tmp_path / "speed.json").write_text(json.dumps({"networks": {"a": row}}))
    assert tables(tmp_path)["speed"].splitlines()[2:] == ["| a | 1.50 | 20 | 500 | 100 |"]
