"""The demo: four methods on digits, all attacked with AutoAttack, and a page that shows what happened."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import load
from headstart.evaluation.evaluate import evaluate
from headstart.methods.registry import build_method
from headstart.models import build_model
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.report import demo_page
from headstart.runs.checkpoint import load_state
from headstart.runs.environment import environment
from headstart.runs.files import write_text
from headstart.training.train import train

METHODS = ("pgd-at", "fgsm-sdi", "fgsm-rs", "fgsm")  # the slowest first, so that the cores finish together
SHOWN = ("fgsm", "fgsm-rs", "fgsm-sdi", "pgd-at")
SAMPLES = 6
ATTACKED = 200  # test images; AutoAttack on all 500 would take longer than the training


def run_demo(out: Path, seed: int = 0, n: int = ATTACKED) -> dict[str, Any]:
    """Train, attack and report into ``out``; what an earlier call finished there is not done again.

    Each method runs in a process of its own on one thread, one process per core: networks this small gain nothing
    from a second thread, and all methods are timed alike.

    Returns:
        The content of demo.json.

    Raises:
        UserError: ``out`` holds a demo with another seed, or cannot be written.
    """
    began = time.perf_counter()
    recipes = {m: load_recipe(f"digits/{m}", seed=seed, device="cpu") for m in METHODS}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(METHODS), os.cpu_count() or 1), mp_context=context) as pool:
        futures = {m: pool.submit(run_method, recipe, out / "runs" / m, n) for m, recipe in recipes.items()}
        _follow(futures, recipes, out)
        results = [futures[m].result() for m in SHOWN]
    recipe = recipes["fgsm-sdi"]
    demo = {
        "data": "digits",
        "epsilon": recipe.epsilon,
        "seed": seed,
        "n": results[0]["n"],
        "results": [{k: v for k, v in r.items() if k not in ("n", "details")} for r in results],
        "total_seconds": time.perf_counter() - began,
        "environment": environment(),
    }
    details = _details({m: r["details"] for m, r in zip(SHOWN, results, strict=True)})
    write_text(out / "demo.json", json.dumps(demo, indent=2) + "\n")
    write_text(out / "details.json", json.dumps(details) + "\n")
    write_text(out / "report.html", demo_page(demo, details))
    _print(demo, out)
    return demo


def run_method(recipe: Recipe, out: Path, n: int) -> dict[str, Any]:
    """Train one method and attack the selected network on n test images; runs in a process of its own."""
    torch.set_num_threads(1)
    result = train(recipe, out, resume=out.exists(), progress=False)
    pgd, standard = _attacked(out, "pgd", n, "pgd.json"), _attacked(out, "standard", n, "evaluation.json")
    return {
        "method": recipe.method,
        "seconds": result.cost["seconds"],
        "clean": standard["clean"],
        "fgsm": pgd["attacks"]["fgsm"],
        "pgd": pgd["attacks"]["pgd-20"],
        "autoattack": standard["robust"],
        "n": standard["n"],
        "details": {
            "curve": [{"epoch": row["epoch"], "epsilon": row["epsilon"], **row["val"]} for row in result.metrics],
            "collapse": next(({"epoch": row["epoch"]} for row in result.metrics if row["collapsed"]), None),
            "samples": sample_perturbations(recipe, out),
            "passes": {
                k: result.cost[k] / result.cost["updates"] for k in ("forwards", "input_gradients", "backwards")
            },
        },
    }


def _attacked(run: Path, suite: str, n: int, file: str) -> dict[str, Any]:
    """The record of an evaluation of the run's network, made unless the file is there."""
    path = run / file
    if not path.exists():
        record = evaluate(run, suite=suite, n=n, progress=False, device="cpu").to_json()
        write_text(path, json.dumps(record, indent=2) + "\n")
    return cast(dict[str, Any], json.loads(path.read_text()))


def sample_perturbations(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What the method does at the end of training to the first test images: delta0, delta, prediction."""
    state = load_state(out / "checkpoints" / "last.pt")
    test = load(recipe.data, "test")
    images, labels = test.tensors()
    x, y = images[: recipe.batch_size].float() / 255, labels[: recipe.batch_size]
    threat = ThreatModel(cast(float, recipe.epsilon), recipe.norm)
    clock = Clock(**(state["clock"] | {"batch": 1}))  # between two updates of the generator
    info = TaskInfo(len(test.classes), test.shape, threat, len(test), len(x), clock.updates, clock.epochs)
    method = build_method(recipe.method, info, recipe.method_args)
    method.load_state_dict(state["method"])
    network = build_model(recipe.model, len(test.classes), test.shape[0], recipe.model_args)
    network.load_state_dict(state["network"])
    judge = copy.deepcopy(network).eval()  # the method's own passes move batch-norm statistics
    step = Step(x, y, threat, clock)
    torch.manual_seed(recipe.seed)
    method.perturb(Target(network), step)
    assert step.delta is not None
    with torch.no_grad():
        adversarial = (x + step.delta).clamp(0, 1)
        predictions = judge(adversarial).argmax(1)

    def shown(tensor: torch.Tensor | None) -> Any:
        return None if tensor is None else tensor[:SAMPLES, 0].detach().tolist()

    return {
        "images": shown(x),
        "labels": y[:SAMPLES].tolist(),
        "classes": list(test.classes),
        "initial": shown(step.delta0),
        "final": shown(step.delta),
        "adversarial": shown(adversarial),
        "predictions": predictions[:SAMPLES].tolist(),
    }


def _details(methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The page's further input: curves, collapses, sample images and passes by method."""
    first = next(iter(methods.values()))["samples"]
    per_method = ("initial", "final", "adversarial", "predictions")
    return {
        "curves": {m: d["curve"] for m, d in methods.items()},
        "collapse": {m: d["collapse"] for m, d in methods.items()},
        "passes": {m: d["passes"] for m, d in methods.items()},
        "samples": {
            **{k: first[k] for k in ("images", "labels", "classes")},
            "per_method": {m: {k: d["samples"][k] for k in per_method} for m, d in methods.items()},
        },
    }


def _follow(futures: dict[str, Future[Any]], recipes: dict[str, Recipe], out: Path) -> None:
    """Show how far each method is until all are done; an error in one ends the demo."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {m: bars.add_task(m, total=recipes[m].epochs, stage="waits for a core", start=False) for m in SHOWN}
        finished: set[str] = set()
        while len(finished) < len(futures):
            time.sleep(0.2)
            for m, future in futures.items():
                epochs = _lines(out / "runs" / m / "metrics.jsonl")
                if future.running() and not bars.tasks[tasks[m]].started:
                    bars.start_task(tasks[m])
                if future.done() and m not in finished:
                    finished.add(m)
                    result = future.result()
                    bars.update(tasks[m], completed=epochs, stage=f"AutoAttack accuracy {result['autoattack']:.1%}")
                    bars.stop_task(tasks[m])
                    if not console.is_terminal:
                        console.print(
                            f"{m}: trained in {result['seconds']:.0f} s, AutoAttack {result['autoattack']:.1%}"
                        )
                elif future.running():
                    training = epochs < recipes[m].epochs
                    stage = f"epoch {epochs + 1}/{recipes[m].epochs}" if training else "under attack"
                    bars.update(tasks[m], completed=epochs, stage=stage)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _print(demo: dict[str, Any], out: Path) -> None:
    table = Table("method", "clean", "FGSM", "PGD-20", "AutoAttack", "training")
    for r in demo["results"]:
        row = [f"{r[k]:.1%}" for k in ("clean", "fgsm", "pgd", "autoattack")]
        table.add_row(r["method"], *row, f"{r['seconds']:.0f} s")
    console = Console()
    console.print(f"accuracy on {demo['n']} test digits, epsilon {demo['epsilon']:g}, seed {demo['seed']}")
    console.print(table)
    console.print(f"the whole story: {out / 'report.html'}")
