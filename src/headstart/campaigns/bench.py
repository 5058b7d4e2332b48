"""Recipes x seeds: one record each, resumable, and their mean and deviation."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart.campaigns.folders import BenchFolder
from headstart.errors import SettingError, StorageError, unknown
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.suites import SUITES
from headstart.fields import fraction_of_pixels
from headstart.recipes.reader import every_recipe, load_recipe
from headstart.recipes.recipe import Recipe
from headstart.report import bench_page
from headstart.report.groups import passes_per_update
from headstart.runs.files import write_text
from headstart.training.train import train

LOG = logging.getLogger(__name__)
COLUMNS = ("clean", "fgsm", "pgd-20", "robust", "seconds", "cpu_seconds")


def bench(
    recipes: Sequence[str],
    seeds: Sequence[int],
    suite: str,
    out: Path,
    *,
    n: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    """Train every recipe with every seed, evaluate the selected network, and return the table as Markdown.

    The most robust recipe comes first in it. A record that exists is kept, and a run that was cut off is resumed.
    Every seed's figures stand in ``table.json``, and pictures of them in ``table.html``.

    Args:
        recipes: as ``load_recipe`` takes them; the name of a data set alone stands for all methods on it.
        suite: what robust accuracy is measured with; the columns FGSM and PGD-20 come from suite ``light``.
        n: only the first n test images.
        overrides: recipe fields for all.

    Raises:
        UserError: a bad recipe or suite, no seed, or an ``out`` that holds runs or records of other settings.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    folder = BenchFolder(out)
    planned = plan(recipes, seeds, overrides or {})
    records = []
    for i, (name, recipe) in enumerate(planned, 1):
        stem = f"{name.replace('/', '-').removesuffix('.yaml')}-{recipe.seed}"
        path = folder.record(stem)
        if not path.exists():
            LOG.info("%d/%d: %s, seed %d", i, len(planned), name, recipe.seed)
            write_text(path, json.dumps(measure(name, recipe, suite, folder.run(stem), n), indent=2) + "\n")
        records.append(read_record(path, recipe, suite, n))
    return write_tables(folder, records)


def plan(recipes: Sequence[str], seeds: Sequence[int], overrides: dict[str, Any]) -> list[tuple[str, Recipe]]:
    """Names and recipes of all runs, recipe by recipe.

    Raises:
        UserError: a bad recipe, or nothing to train.
    """
    if not recipes or not seeds:
        raise SettingError("nothing to train: give at least one recipe, such as digits/fgsm-sdi, and at least one seed")
    return [
        (name, load_recipe(name, **{**overrides, "seed": seed}))
        for name in expanded(recipes)
        for seed in sorted(set(seeds))
    ]


def expanded(recipes: Sequence[str]) -> list[str]:
    """Recipes, each once, with all methods' in place of the name of a data set."""
    lists = [[given] if "/" in given or "." in given else every_recipe(given) for given in recipes]
    return list(dict.fromkeys(name for names in lists for name in names))


def read_record(path: Path, recipe: Recipe, suite: str, n: int | None) -> dict[str, Any]:
    """The record at ``path``, of this recipe measured like this.

    Raises:
        StorageError: the file cannot be read, or was made with other settings.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        evaluation, made_with = record["evaluation"], record["recipe"]
        found = {**made_with, "suite": evaluation["suite"], "n": record.get("n", evaluation["n"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is not a record of a bench; delete it, and it is measured again") from error
    wanted = json.loads(json.dumps(asdict(recipe))) | {"suite": suite, "n": n}
    for key, value in wanted.items():
        if found.get(key, value) != value:  # a field that did not exist yet had its default
            was, now = map(fraction_of_pixels if key == "epsilon" else repr, (found[key], value))
            raise StorageError(f"{path} was made with {key} {was}, not {now}; take another folder or delete it")
    return record


def measure(name: str, recipe: Recipe, suite: str, run: Path, n: int | None) -> dict[str, Any]:
    """The record of one run."""
    result = train(recipe, run, resume=run.exists())
    light = evaluate(run, suite="light", n=n, device=recipe.device, seed=recipe.seed).to_json()
    final = evaluate(run, suite=suite, n=n, device=recipe.device, seed=recipe.seed).to_json(per_image=False)
    return {
        "recipe_name": name,
        "seed": recipe.seed,
        "n": n,
        "clean": final["clean"],
        "fgsm": light["attacks"]["fgsm"],
        "pgd-20": light["attacks"]["pgd-20"],
        "robust": final["robust"],
        "seconds": result.cost["seconds"],
        "cpu_seconds": result.cost["processor_seconds"],
        "collapsed_epochs": [row["epoch"] for row in result.metrics if row["collapsed"]],
        "recipe": asdict(recipe),
        "cost": result.cost,
        "evaluation": final,
    }


def write_tables(folder: BenchFolder, records: Sequence[dict[str, Any]]) -> str:
    """Write the table in its three forms; the Markdown."""
    table, summarised = markdown(records), summary(records)
    write_text(folder.table, table)
    write_text(folder.summary, json.dumps(summarised, indent=1) + "\n")
    write_text(folder.page, bench_page(summarised, folder.figures))
    return table


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the table was made from: settings once, the figures of every seed."""
    return {
        "suite": records[0]["evaluation"]["suite"],
        "n": records[0]["evaluation"]["n"],
        "epsilon": records[0]["evaluation"]["epsilon"],
        "environment": records[0]["evaluation"]["environment"],
        # With a GPU the processor only waits.
        "cost": "seconds" if records[0]["cost"]["peak_memory_bytes"] else "cpu_seconds",
        "rows": [
            {
                "recipe": name,
                "recipe_fields": {k: v for k, v in rows[0]["recipe"].items() if k != "seed"},
                "n": rows[0]["evaluation"]["n"],
                "seeds": [r["seed"] for r in rows],
                **{column: [r[column] for r in rows] for column in COLUMNS},
                "collapsed_epochs": [r["collapsed_epochs"] for r in rows],
                "passes_per_update": passes_per_update(rows[0]["cost"]),
            }
            for name, rows in by_recipe(records).items()
        ],
    }


def by_recipe(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of one recipe together, the most robust on average first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["recipe_name"], []).append(record)
    return dict(sorted(groups.items(), key=lambda group: -statistics.mean(r["robust"] for r in group[1])))


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Mean and sample standard deviation over seeds, accuracies in percent."""
    suite, n = records[0]["evaluation"]["suite"], records[0]["evaluation"]["n"]
    lines = [
        f"| recipe | seeds | clean | FGSM | PGD-20 | {suite} ({n} images) | training, s | processor, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in by_recipe(records).items():
        cells = [_cell([r[c] * (1 if c.endswith("seconds") else 100) for r in rows]) for c in COLUMNS]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
