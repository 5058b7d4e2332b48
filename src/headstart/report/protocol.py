"""A run beside the published numbers of its kind, and in what its protocol differs from theirs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.report.groups import attacks, flat, method_of
from headstart.report.numbers import Spread, spread
from headstart.report.published import Published, dataset_of, published_for
from headstart.report.reading import Json

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "tiny-imagenet": 10_000, "imagenet": 50_000}
NETWORKS = {
    "ResNet18": "resnet18",
    "PreActResNet18": "preact-resnet18",
    "WideResNet34-10": "wide-resnet34-10",
    "ResNet50": "resnet50",
}
WITHOUT_EFFECT = (
    "image_column", "label_column", "seed", "compile", "cuda_graphs", "device", "deterministic", "workers",
    "checkpoint_every", "keep", "watch_every", "curve_every", "on_bad_image",
)  # fmt: skip
"""Fields of a recipe that leave the protocol as it is."""

ROW_SETTINGS: dict[str, dict[str, Any]] = {"pgd_at_wa": {"average": 0.9995}}
"""What a published row has besides the recipe of its method."""

THEIR_CODE = {
    "free_at": "their rate never comes down, and their start is zero for every batch",
    "gat": "their code takes the softmax twice in half of the attacks",
    "grad_align": "their code boxes the second point of the alignment",
}
"""What no setting of a recipe brings about, by published row."""


@dataclass(frozen=True)
class Beside:
    """A run and the published rows of its data set, method and epsilon, each with the differences in words."""

    run: Json
    ours: dict[str, Spread | None]
    rows: list[tuple[Published, list[str]]]


def beside(run: Json) -> Beside:
    """The published rows of a run; none where its data set, method, norm or epsilon has none.

    An evaluation on another data set, or for another norm or epsilon than the training, has none either.
    """
    config, evaluation = run["config"], run["evaluation"] or {}
    datasets = {dataset_of(name) for name in _data(run)}
    sizes = [part["epsilon"] for part in (config, evaluation) if part.get("epsilon") is not None]
    norms = {part.get("norm", "linf") for part in (config, evaluation)}
    rows: list[Published] = []
    if len(datasets) == 1 and norms == {"linf"} and sizes and math.isclose(min(sizes), max(sizes)):
        rows = published_for(datasets.pop(), _method(config)[0], sizes[0])
    return Beside(run, _ours(run), [(row, list(_differences(run, row))) for row in rows])


def _ours(run: Json) -> dict[str, Spread | None]:
    evaluation, found = run["evaluation"] or {}, attacks(run)
    whole = {"standard": evaluation.get("robust"), "full": found.get("square")}
    values = {
        "clean": evaluation.get("clean"),
        "pgd-50": found.get("pgd-50"),
        "autoattack": whole.get(str(evaluation.get("suite"))),
    }
    return {name: spread([value], evaluation.get("n")) for name, value in values.items()}


def _differences(run: Json, row: Published) -> Iterator[str]:
    yield from _of_evaluation(run, row)
    yield from _of_figures(row)
    config = _complete(run["config"])
    yield from (f"images of {name}" for name in _data(run) if name != row.dataset)
    if not row.network:
        yield "network not stated"
    if not row.protocol:
        if row.network and config["model"] != _network(row):
            yield f"network {config['model']}, not {_network(row)}"
        yield "training protocol not known here"
        return
    yield from _of_training(config, row)
    if their_code := THEIR_CODE.get(row.method):
        yield their_code


def _of_evaluation(run: Json, row: Published) -> Iterator[str]:
    if (evaluation := run["evaluation"]) is None:
        yield "not evaluated"
        return
    if evaluation.get("suite") not in ("standard", "full"):
        yield f"suite {evaluation.get('suite')}, not AutoAttack"
    images = row.images or TEST_IMAGES[row.dataset or ""]
    if evaluation["n"] != images:
        yield f"{evaluation['n']:,} test images, not {images:,}"
    precision = evaluation.get("precision", "float32")
    if precision != "float32":
        yield f"attacks search in {precision.split()[0]}"


def _of_figures(row: Published) -> Iterator[str]:
    if row.doubt:
        yield f"figures {row.doubt}"
    if row.restarts > 1:
        yield f"PGD-50 with {row.restarts} restarts"
    if row.checkpoint == "last":
        yield "their last epoch, our best"
    elif not row.checkpoint:
        yield "checkpoint not stated"
    elif row.protocol == "paper":
        yield "their epoch chosen on the test set"


def _of_training(config: Json, row: Published) -> Iterator[str]:
    """Settings other than those of the recipe that follows the row's protocol."""
    method, defaults = _method(config)
    recipe = dataclasses.asdict(_recipe(f"{row.dataset}-{row.protocol}/{method}", row.method))
    if row.network and recipe["model"] != _network(row):
        recipe |= {"model": _network(row), "model_args": {}}
    if row.protocol == "paper":
        recipe |= {"val_size": 0, "validation": config["validation"]}  # they train on every image
    for part in (recipe, config):
        part["method_args"] = defaults | part["method_args"]
    ours, theirs = flat(_mattering(config)), flat(_mattering(recipe))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    implied = ("milestones", "peak") if "schedule" in names else ()
    if not ours["average"] or not theirs["average"]:
        implied = (*implied, "average_warmup")
    for name in names:
        if name not in implied:
            yield f"{_label(name)} {_written(name, ours.get(name))}, not {_written(name, theirs.get(name))}"


@functools.cache
def _recipe(name: str, published: str) -> Recipe:
    return load_recipe(name, **ROW_SETTINGS.get(published, {}))


def _mattering(config: Json) -> Json:
    apart = ("data", "method", "norm", "epsilon")  # compared before
    return {key: value for key, value in config.items() if key not in (*WITHOUT_EFFECT, *apart)}


def _method(config: Json) -> tuple[str, Json]:
    """Name of the run's method, the first of its names where it has two, and the defaults of its settings."""
    from headstart.methods.registry import methods  # here, since methods take loading torch

    name = method_of({"config": config})
    entry = methods().get(name)
    return (name, {}) if entry is None else (entry.same_as or name, entry.settings)


def _data(run: Json) -> list[str]:
    """What the run was trained on, and what it was evaluated on where that has another name."""
    request = (run["evaluation"] or {}).get("request") or {}
    return list(dict.fromkeys(name for name in (run["config"].get("data"), request.get("data")) if name))


def _complete(config: Json) -> Json:
    """The configuration with the defaults of fields that are younger than it."""
    return dataclasses.asdict(Recipe()) | config


def _network(row: Published) -> str:
    prefix = "imagenet-" if row.dataset == "imagenet" and row.network in ("ResNet18", "ResNet50") else ""
    return prefix + NETWORKS.get(row.network, row.network)


def _label(name: str) -> str:
    return "network" if name == "model" else name.removeprefix("method_args.")


def _written(name: str, value: Any) -> str:
    if value is None:
        return "the method's default" if name.startswith("method_args.") else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
