"""Books of published protocols: the numbers they resolve to, and two updates of every method by each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headstart.core import Clock, Target
from headstart.core.threat import ThreatModel
from headstart.data import Batch
from headstart.methods.registry import build_method, methods
from headstart.parts.losses import smoothing_of
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.training.average import WeightAverage
from headstart.training.optim import make_optimizer, make_schedule
from headstart.training.update import Updater
from tests.helpers import batches, info, tiny_net

CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000}
BENCH = [f"{data}-bench" for data in ("cifar10", "cifar100", "tiny-imagenet")]
PAPER = [f"{data}-paper" for data in ("cifar10", "cifar100", "tiny-imagenet", "imagenet")]
SMALL = {"generator_width": 4, "steps": 2, "replays": 2}  # what would only take longer

BENCHMARK = {
    **{"epochs": 100, "batch_size": 128, "val_size": 1000, "validation": "last", "optimizer": "sgd", "lr": 0.1},
    **{"schedule": "one-cycle", "schedule_by": "epoch", "peak": 0.3, "cycle_momentum": True, "weight_decay": 5e-4},
    **{"average": 0.9995, "average_warmup": False, "precision": "fp32", "pad": 4, "epsilon": 8 / 255},
    **{"model": "resnet18", "ascent_batch_norm": "train", "eval_every": 1},
}
AUTHORS = {
    **{"epochs": 110, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    **{"schedule": "multi-step", "milestones": [100, 105], "average": 0.0, "precision": "fp32", "pad": 4},
    **{"model": "resnet18", "epsilon": 8 / 255, "ascent_batch_norm": "train"},
}


def differing(recipe: Recipe, numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(recipe, key) for key, value in numbers.items() if getattr(recipe, key) != value}


def test_the_benchmarks_protocol() -> None:
    assert differing(load_recipe("cifar10-bench/fgsm-rs"), BENCHMARK) == {}
    assert differing(load_recipe("cifar100-bench/fgsm-rs"), BENCHMARK) == {}
    network = {"val_size": 2000, "validation": "random", "model": "preact-resnet18"}
    tiny = load_recipe("tiny-imagenet-bench/fgsm-rs")
    assert differing(tiny, BENCHMARK) == network
    assert tiny.model_args == {"final_norm": False}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("cifar10-bench/free", {"epochs": 50, "method_args": {"label_smoothing": 0.4, "replays": 4}}),
        ("cifar10-bench/pgd-at", {"average": 0.0, "method_args": {"label_smoothing": 0.4, "batch_norm": "eval"}}),
        ("cifar10-bench/liet", {"method_args": {}}),  # its own published settings are the benchmark's
        ("cifar100-bench/zero-grad", {"method_args": {"label_smoothing": 0.4, "quantile": 0.45}}),
        ("tiny-imagenet-bench/zero-grad", {"method_args": {"label_smoothing": 0.4, "quantile": 0.35}}),
        ("cifar10-paper/fgsm-law", {"milestones": [99, 104], "average": 0.999}),
        ("cifar10-paper/fgsm-sdi", {"method_args": {"generator_every": 20, "relative_alpha": 1.0}}),
    ],
)
def test_what_single_methods_change(name: str, numbers: dict[str, Any]) -> None:
    assert differing(load_recipe(name), numbers) == {}


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tiny-imagenet"])
def test_labels_that_the_benchmark_smooths_twice(data: str) -> None:
    """0.6 on the true class, and 0.4 of uniform over all of that."""
    k = CLASSES[data]
    once = torch.full((k,), 0.4 / (k - 1))
    once[0] = 0.6
    twice = 0.6 * once + 0.4 / k
    for method in ("fgsm-pco", "mep-cs", "rs-cs"):
        s = load_recipe(f"{data}-bench/{method}").method_args["label_smoothing"]
        ours = torch.full((k,), s / k)
        ours[0] += 1 - s
        torch.testing.assert_close(ours, twice, rtol=0, atol=1e-6)


def test_the_authors_protocol() -> None:
    for data in ("cifar10", "cifar100"):
        assert differing(load_recipe(f"{data}-paper/fgsm-sdi"), AUTHORS) == {}
    assert differing(load_recipe("tiny-imagenet-paper/fgsm-sdi"), AUTHORS) == {"model": "preact-resnet18"}
    imagenet = load_recipe("imagenet-paper/fgsm-sdi")
    assert (imagenet.model, imagenet.epsilon, imagenet.average) == ("imagenet-resnet50", 4 / 255, 0.0)


def test_the_authors_smoothing_is_the_methods_own() -> None:
    method = build_method("fgsm-sdi", info(), load_recipe("cifar10-paper/fgsm-sdi").method_args)
    assert method.loss.label_smoothing == pytest.approx(smoothing_of(0.5, 10))
    assert method.loss.label_smoothing == pytest.approx(0.5556, abs=1e-4)


@pytest.mark.parametrize("book", [*BENCH, *PAPER])
def test_every_method_makes_two_updates(book: str) -> None:
    classes = CLASSES[book.rpartition("-")[0]]
    for name in methods():
        recipe = load_recipe(f"{book}/{name}")
        settings = dict(recipe.method_args)
        settings |= {key: value for key, value in SMALL.items() if key in methods()[name].settings}
        threat = ThreatModel(float(recipe.epsilon))
        task = info(threat, classes=classes, samples=16, batch_size=8, updates=2 * recipe.epochs, epochs=recipe.epochs)
        net: Any = tiny_net(classes=classes)
        before = net.linear.weight.detach().clone()
        method, optimizer = build_method(name, task, settings), make_optimizer(recipe, net)
        schedule = make_schedule(recipe, optimizer, task.updates, 2)
        average = WeightAverage(net, recipe.average, warmup=recipe.average_warmup) if recipe.average else None
        updater = Updater(method, Target(net), optimizer)
        for k, (x, y, index) in enumerate(batches(2)):
            losses = updater(Batch(x, y, index, None), threat, Clock(k, task.updates, 0, recipe.epochs, k))
            schedule.step()
            if average:
                average.update(method.averages(losses[-1][1]))
            assert all(loss.isfinite() for loss, _ in losses), name
        assert not net.linear.weight.equal(before), name
