"""The demo: five methods on digits, all attacked with AutoAttack, and a page that shows what happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table

from headstart.campaigns.folders import DemoFolder, pgd_record
from headstart.campaigns.following import follow
from headstart.campaigns.perturbations import sample_perturbations
from headstart.evaluation.evaluate import evaluate
from headstart.fields import fraction_of_pixels
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.report import demo_page
from headstart.report.groups import passes_per_update
from headstart.runs.environment import environment
from headstart.runs.files import write_text
from headstart.runs.folder import RunFolder
from headstart.runs.log import show_messages
from headstart.training.train import train

METHODS = ("pgd-at", "sdi-pgi", "fgsm-sdi", "fgsm-rs", "fgsm")  # the slowest first: the cores finish together
SHOWN = ("fgsm", "fgsm-rs", "fgsm-sdi", "sdi-pgi", "pgd-at")
ATTACKED = 200  # test images; AutoAttack on all 500 would take longer than the training


def run_demo(out: Path, seed: int = 0, n: int = ATTACKED) -> dict[str, Any]:
    """Train, attack and report into ``out``; what an earlier call finished there is not done again.

    Returns:
        The content of demo.json.

    Raises:
        UserError: ``out`` holds a demo with another seed, or cannot be written.
    """
    began = time.perf_counter()
    folder = DemoFolder(out)
    recipes = {m: load_recipe(f"digits/{m}", seed=seed, device="cpu") for m in METHODS}
    measured = run_methods(recipes, folder, n)
    results = [measured[m] for m in SHOWN]
    demo = {
        "data": "digits",
        "epsilon": recipes["fgsm-sdi"].epsilon,
        "seed": seed,
        "n": results[0]["n"],
        "results": [{k: v for k, v in r.items() if k not in ("n", "details")} for r in results],
        "total_seconds": time.perf_counter() - began,
        "environment": environment(),
    }
    details = _details({m: measured[m]["details"] for m in SHOWN})
    write_text(folder.demo, json.dumps(demo, indent=2) + "\n")
    write_text(folder.details, json.dumps(details) + "\n")
    write_text(folder.page, demo_page(demo, details, folder.figures))
    _print(demo, folder)
    return demo


def run_methods(recipes: dict[str, Recipe], folder: DemoFolder, n: int) -> dict[str, dict[str, Any]]:
    """What ``run_method`` returns of every recipe, by method.

    Each method runs in a process of its own on one thread, one process per core: networks this small gain nothing
    from a second thread, and all methods are timed alike.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(len(recipes), os.cpu_count() or 1), mp_context=context, initializer=show_messages
    ) as pool:
        futures: dict[str, Future[dict[str, Any]]] = {
            m: pool.submit(run_method, recipe, folder.run(m), n) for m, recipe in recipes.items()
        }
        follow({m: (futures[m], recipes[m].epochs, folder.run(m)) for m in SHOWN})
        return {m: future.result() for m, future in futures.items()}


def run_method(recipe: Recipe, run: RunFolder, n: int) -> dict[str, Any]:
    """Train one method and attack the selected network on n test images; runs in a process of its own."""
    torch.set_num_threads(1)
    result = train(recipe, run.path, resume=run.path.exists(), progress=False)
    pgd = _attacked(run, "pgd", n, pgd_record(run))
    standard = _attacked(run, "standard", n, run.evaluation)
    return {
        "method": recipe.method,
        "seconds": result.cost["seconds"],
        "processor_seconds": result.cost["processor_seconds"],
        "clean": standard["clean"],
        "fgsm": pgd["attacks"]["fgsm"],
        "pgd": pgd["attacks"]["pgd-20"],
        "autoattack": standard["robust"],
        "n": standard["n"],
        "details": {
            "curve": [{"epoch": row["epoch"], "epsilon": row["epsilon"], **row["val"]} for row in result.metrics],
            "collapse": next(({"epoch": row["epoch"]} for row in result.metrics if row["collapsed"]), None),
            "samples": sample_perturbations(recipe, run),
            "passes": passes_per_update(result.cost),
            "evaluation": standard,
        },
    }


def _attacked(run: RunFolder, suite: str, n: int, path: Path) -> dict[str, Any]:
    """The record of an evaluation of the run's network, made unless the file is there."""
    if not path.exists():
        record = evaluate(run.path, suite=suite, n=n, progress=False, device="cpu").to_json()
        write_text(path, json.dumps(record, indent=2) + "\n")
    return cast(dict[str, Any], json.loads(path.read_text()))


def _details(methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The page's further input by method: curves, collapses, sample images, passes and evaluations."""
    first = next(iter(methods.values()))["samples"]
    per_method = ("initial", "final", "adversarial", "predictions")
    return {
        "curves": {m: d["curve"] for m, d in methods.items()},
        "collapse": {m: d["collapse"] for m, d in methods.items()},
        "passes": {m: d["passes"] for m, d in methods.items()},
        "evaluations": {m: d["evaluation"] for m, d in methods.items()},
        "samples": {
            **{k: first[k] for k in ("images", "labels", "classes")},
            "per_method": {m: {k: d["samples"][k] for k in per_method} for m, d in methods.items()},
        },
    }


def _print(demo: dict[str, Any], folder: DemoFolder) -> None:
    table = Table("method", "clean", "FGSM", "PGD-20", "AutoAttack", "training")
    for r in demo["results"]:
        row = [f"{r[k]:.1%}" for k in ("clean", "fgsm", "pgd", "autoattack")]
        table.add_row(r["method"], *row, f"{r['seconds']:.0f} s")
    console = Console()
    console.print(
        f"accuracy on {demo['n']} test digits, epsilon {fraction_of_pixels(demo['epsilon'])}, seed {demo['seed']}"
    )
    console.print(table)
    console.print(f"the whole story: {folder.page}; its figures as SVG and PDF: {folder.figures}")
