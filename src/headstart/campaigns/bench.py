"""Recipes x seeds: one record each, resumable, and their mean and deviation."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from headstart.campaigns import by_time
from headstart.campaigns.folders import BenchFolder
from headstart.campaigns.tables import Record, write_tables
from headstart.campaigns.variation import variants
from headstart.errors import SettingError, StorageError
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.suites import find_suite
from headstart.fields import fraction_of_pixels
from headstart.recipes.reader import every_recipe, load_recipe, merge
from headstart.recipes.recipe import Recipe
from headstart.report.groups import curve
from headstart.runs.files import write_text
from headstart.runs.folder import RunFolder, partial_of
from headstart.training.train import train

LOG = logging.getLogger(__name__)


def bench(
    recipes: Sequence[str],
    seeds: Sequence[int],
    suite: str,
    out: Path,
    *,
    n: int | None = None,
    last: bool = False,
    time: bool = False,
    overrides: dict[str, Any] | None = None,
    vary: str | None = None,
) -> str:
    """Train every recipe with every seed, evaluate the selected network, and return the table as Markdown.

    The most robust recipe comes first in it. A record that exists is kept, and a run that was cut off is resumed.
    Every seed's figures stand in ``table.json``, and pictures of them in ``table.html``.

    Args:
        recipes: as ``load_recipe`` takes them; the name of a data set alone stands for all methods on it. If there
            are none, the tables are made anew from the records in ``out``. ``overrides``: fields for all of them.
        suite: what robust accuracy is measured with; the columns FGSM and PGD-20 come from suite ``light``.
        n: only the first n test images.
        last: evaluate the weights that training ended with, too.
        time: keep every epoch's checkpoint, attack each with the suite, and add robustness by cost; see ``by_time``.
        vary: a setting and its values: every recipe is trained as it is, and with each of them; see ``variants``.

    Raises:
        UserError: a bad recipe or suite, no seed, or an ``out`` that holds runs or records of other settings.
    """
    find_suite(suite)
    folder = BenchFolder(out)
    if not recipes:
        return write_tables(folder, *stored(folder))
    planned = plan(recipes, seeds, {**({"keep": by_time.ALL} if time else {}), **(overrides or {})}, vary)
    return write_tables(folder, *measure_all(folder, planned, suite, n, last, time))


def measure_all(
    folder: BenchFolder, planned: list[tuple[str, Recipe]], suite: str, n: int | None, last: bool, time: bool
) -> tuple[list[Record], list[Record]]:
    """The records of all runs, and their curves if asked for, as ``bench`` has them."""
    records, curves = [], []
    for i, (name, recipe) in enumerate(planned, 1):
        stem = stem_of(name, recipe.seed)
        if not folder.record(stem).exists():
            LOG.info("%d/%d: %s, seed %d", i, len(planned), name, recipe.seed)
            measured = measure(name, recipe, suite, folder.run(stem), n, last)
            write_text(folder.record(stem), json.dumps(measured, indent=2) + "\n")
        records.append(read_record(folder.record(stem), recipe, suite, n, last))
        if time:
            points = by_time.curve(recipe, RunFolder(folder.run(stem)), folder.curve(stem), suite, n)
            curves.append({"recipe": name, "seed": recipe.seed, "points": points})
    return records, curves


def stored(folder: BenchFolder) -> tuple[list[Record], list[Record]]:
    """All records of a bench, and the curves of those runs that have one.

    Raises:
        SettingError: there are none.
    """
    paths = sorted(folder.record("x").parent.glob("*.json"))
    if not paths:
        raise SettingError(f"nothing to train, and no records in {folder.path}: give a recipe, such as digits/fgsm-sdi")
    records = [json.loads(path.read_text()) for path in paths]
    curves = [
        {"recipe": record["recipe_name"], "seed": record["seed"], "points": json.loads(curve.read_text())["points"]}
        for record, path in zip(records, paths, strict=True)
        if (curve := folder.curve(path.stem)).exists()
    ]
    return records, curves


def plan(
    recipes: Sequence[str], seeds: Sequence[int], overrides: dict[str, Any], vary: str | None = None
) -> list[tuple[str, Recipe]]:
    """Names and recipes of all runs, recipe by recipe and variant by variant.

    Raises:
        UserError: a bad recipe, or nothing to train.
    """
    if not seeds:
        raise SettingError("nothing to train: give at least one seed")
    changes = {"": overrides}
    if vary:
        changes |= {f" {label}": merge(overrides, fields) for label, fields in variants(vary).items()}
    return [
        (name + label, load_recipe(name, **{**fields, "seed": seed}))
        for name in expanded(recipes)
        for label, fields in changes.items()
        for seed in sorted(set(seeds))
    ]


def stem_of(name: str, seed: int) -> str:
    """What the record and the run of a recipe with a seed are called."""
    return f"{name.replace('/', '-').replace(' ', '-').replace('.yaml', '')}-{seed}"


def expanded(recipes: Sequence[str]) -> list[str]:
    """Recipes, each once, with all methods' in place of the name of a data set."""
    lists = [[given] if "/" in given or "." in given else every_recipe(given) for given in recipes]
    return list(dict.fromkeys(name for names in lists for name in names))


def read_record(path: Path, recipe: Recipe, suite: str, n: int | None, last: bool = False) -> Record:
    """The record at ``path``, of this recipe measured like this.

    Raises:
        StorageError: the file cannot be read, or was made with other settings.
    """
    try:
        record: Record = json.loads(path.read_text())
        evaluation, made_with = record["evaluation"], record["recipe"]
        found = {**made_with, "suite": evaluation["suite"], "n": record.get("n", evaluation["n"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is not a record of a bench; delete it, and it is measured again") from error
    wanted = json.loads(json.dumps(asdict(recipe))) | {"suite": suite, "n": n}
    del wanted["keep"]  # what is kept of a run changes nothing in it
    for key, value in wanted.items():
        if found.get(key, value) != value:  # a field that did not exist yet had its default
            was, now = map(fraction_of_pixels if key == "epsilon" else repr, (found[key], value))
            raise StorageError(f"{path} was made with {key} {was}, not {now}; take another folder or delete it")
    if last and "last" not in record:
        raise StorageError(f"{path} is not of the last weights; take another folder or delete it")
    return record


def measure(name: str, recipe: Recipe, suite: str, run: Path, n: int | None, last: bool = False) -> Record:
    """The record of one run."""
    result = train(recipe, run, resume=run.exists())
    folder = RunFolder(run)
    found = accuracies(folder.weights, recipe, suite, n)
    record: Record = {
        "recipe_name": name,
        "seed": recipe.seed,
        "n": n,
        **found,
        "seconds": result.cost["seconds"],
        "cpu_seconds": result.cost["processor_seconds"],
        "collapsed_epochs": [row["epoch"] for row in result.metrics if row["collapsed"]],
        "curve": [point for point in curve({"metrics": result.metrics}) if "clean" in point],
        "recipe": asdict(recipe),
        "cost": result.cost,
    }
    if last:
        same = same_weights(folder.weights, folder.last_weights)
        record["last"] = found if same else accuracies(folder.last_weights, recipe, suite, n)
    return record


def accuracies(weights: Path, recipe: Recipe, suite: str, n: int | None) -> Record:
    """Accuracies of a network on the test images, and which of them withstand the suite.

    The suite's finished attacks are kept beside the weights until all are done, so that a bench that was cut off in
    them goes on there.
    """
    partial = partial_of(weights)
    light = evaluate(weights, suite="light", n=n, device=recipe.device, seed=recipe.seed)
    final = evaluate(weights, suite=suite, n=n, device=recipe.device, seed=recipe.seed, partial=partial)
    partial.unlink(missing_ok=True)
    return {
        "clean": final.clean,
        "fgsm": light.attacks["fgsm"],
        "pgd-20": light.attacks["pgd-20"],
        "robust": final.robust,
        "withstands": "".join("1" if attack is None else "0" for attack in final.broken_by),
        "evaluation": final.to_json(per_image=False),
    }


def same_weights(one: Path, other: Path) -> bool:
    """Whether two weights files hold the same tensors."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
