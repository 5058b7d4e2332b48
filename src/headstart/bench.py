"""Recipes x seeds: one record each, resumable, and their mean and deviation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from headstart.config import Recipe, load_recipe
from headstart.engine.checkpoint import write_text
from headstart.engine.evaluate import evaluate
from headstart.engine.train import train

COLUMNS = ("clean", "fgsm", "pgd-20", "robust", "seconds")


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

    A record that exists is kept, and a run that was cut off is resumed.

    Args:
        suite: evaluated beside ``pgd``, which gives the FGSM and PGD-20 columns.
        n: only the first n test images.
        overrides: recipe fields for all.

    Raises:
        UserError: a bad recipe or suite, or an ``out`` that holds runs of other settings.
    """
    planned = [(name, load_recipe(name, **{**(overrides or {}), "seed": seed})) for name in recipes for seed in seeds]
    console = Console(stderr=True)
    records = []
    for i, (name, recipe) in enumerate(planned, 1):
        stem = f"{name.replace('/', '-').removesuffix('.yaml')}-{recipe.seed}"
        path = out / "records" / f"{stem}.json"
        if not path.exists():
            console.print(f"{i}/{len(planned)}: {name}, seed {recipe.seed}")
            write_text(path, json.dumps(measure(name, recipe, suite, out / "runs" / stem, n), indent=2) + "\n")
        records.append(json.loads(path.read_text()))
    table = markdown(records)
    write_text(out / "table.md", table)
    return table


def measure(name: str, recipe: Recipe, suite: str, run: Path, n: int | None) -> dict[str, Any]:
    """The record of one run."""
    result = train(recipe, run, resume=run.exists())
    single = evaluate(run, suite="pgd", n=n, device=recipe.device, seed=recipe.seed).to_json()
    final = evaluate(run, suite=suite, n=n, device=recipe.device, seed=recipe.seed).to_json()
    final.pop("broken_by")
    return {
        "recipe_name": name,
        "seed": recipe.seed,
        "clean": final["clean"],
        "fgsm": single["attacks"]["fgsm"],
        "pgd-20": single["attacks"]["pgd-20"],
        "robust": final["robust"],
        "seconds": result.cost["seconds"],
        "collapsed_epochs": [row["epoch"] for row in result.metrics if row["collapsed"]],
        "recipe": asdict(recipe),
        "cost": result.cost,
        "evaluation": final,
    }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Mean and sample standard deviation over seeds, accuracies in percent."""
    names = list(dict.fromkeys(r["recipe_name"] for r in records))
    suite, n = records[0]["evaluation"]["suite"], records[0]["evaluation"]["n"]
    lines = [
        f"| recipe | seeds | clean | FGSM | PGD-20 | {suite} ({n} images) | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        rows = [r for r in records if r["recipe_name"] == name]
        cells = [_cell([r[c] * (1 if c == "seconds" else 100) for r in rows]) for c in COLUMNS]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
