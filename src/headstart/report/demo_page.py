"""The page of the demo: what became of each method, its curves, its cost, and its perturbations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart.evaluation.compare import compare_records
from headstart.report import plots
from headstart.report.colours import colour
from headstart.report.cost_plot import Point, cost_plot
from headstart.report.headline import bargain, headline, strongest_attack
from headstart.report.linearity import linearity_section
from headstart.report.numbers import budget, sampling_interval, spread
from headstart.report.pictures import perturbation, picture
from headstart.report.ranking import Ranking, ranking
from headstart.report.reading import Json
from headstart.report.rendering import render
from headstart.report.run_tables import PASSES_COLUMNS, passes_cells
from headstart.report.tables import Column, Row, Table, accuracy, figure, words


def demo_page(demo: Json, details: Json, folder: Path | None = None) -> str:
    """The whole page.

    Args:
        demo: ``{"data", "epsilon", "results": [{"method", "seconds", "clean", "fgsm", "pgd", "autoattack"}]}``, with
            ``"n"``, ``"seed"`` and ``"environment"`` where known; accuracies are fractions. Whatever else it holds is
            listed in the footer.
        details: ``{"curves", "collapse", "samples", "passes", "evaluations"}``, each by method; parts that are missing
            are left out.
        folder: beside the page, to write every figure to, as SVG and PDF; the page has links to them.
    """
    results, n = demo["results"], demo.get("n")
    colours = {row["method"]: colour(i) for i, row in enumerate(results)}
    curves, collapse, samples = (details.get(part) or {} for part in ("curves", "collapse", "samples"))
    about = [f"data: {demo['data']}", f"ε = {budget(demo['epsilon'])}"]
    about += [f"{title} {demo[key]}" for key, title in (("n", "test images:"), ("seed", "seed")) if key in demo]
    ranks = _ranks(results, n, details.get("evaluations") or {})
    panels, costs = _panels(curves, collapse, colours), _costs(results, n, colours)
    linear = linearity_section(curves, {m: (seen or {}).get("epoch") for m, seen in collapse.items()}, colours)
    drawn = [*(panel["figure"] for panel in panels), *([linear["figure"]] if linear else []), *(f for _, f in costs)]
    return render(
        "demo.html.j2",
        title="headstart demo",
        about=" · ".join(about),
        headline=headline(results, collapse),
        lede=bargain(results, ranks),
        settings={"Settings": {key: demo[key] for key in demo if key not in ("results", "environment")}},
        measured=[demo],
        figures=drawn,
        folder=folder,
        n=n,
        epsilon=demo["epsilon"],
        results=_results(results, n, details, colours, ranks.top if ranks else set()),
        lines=plots.lines_of(curves.values()),
        panels=panels,
        linearity=linear,
        unvalidated=[],
        costs=costs,
        samples=samples and _samples(samples, demo["epsilon"], colours),
    )


def _ranks(results: list[Json], n: int | None, evaluations: Json) -> Ranking | None:
    """Who is the most robust, judged image by image where the evaluations of AutoAttack are there."""
    strongest = strongest_attack(results)
    if strongest is None:
        return None
    attack = strongest[0]
    accuracies = {row["method"].upper(): spread([row[attack]], n) for row in results}
    best = max(results, key=lambda row: row[attack])["method"]
    paired = {}
    if attack == "autoattack" and all(row["method"] in evaluations for row in results):
        for method in (row["method"] for row in results if row["method"] != best):
            pair = compare_records(evaluations[best], evaluations[method], (best, method))
            paired[method.upper()] = pair.better is None
    return ranking(accuracies, paired)


def _results(results: list[Json], n: int | None, details: Json, colours: Mapping[str, str], top: set[str]) -> Table:
    """A row per method; ``top`` are those that are the most robust or may be."""
    names = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD-20", "autoattack": "AutoAttack"}
    strongest = strongest_attack(results)
    columns = [Column("method", text=True)]
    columns += [Column(names[key], "accuracy on test images, %", headline=key == "autoattack") for key in names]
    columns += [Column("training, seconds"), *PASSES_COLUMNS]
    rows = []
    for row in results:
        name, counted = row["method"].upper(), (details.get("passes") or {}).get(row["method"], {})
        cells = [words(name, colour=colours[row["method"]])]
        for key in names:
            best = strongest is not None and key == strongest[0] and name in top
            cells.append(accuracy(spread([row.get(key)], n), best))
        rows.append(Row([*cells, figure(row.get("seconds")), *passes_cells(counted)]))
    return Table("results", "Accuracy and cost", columns, rows)


def _panels(curves: Json, collapse: Json, colours: Mapping[str, str]) -> list[Json]:
    panels = []
    for i, method in enumerate(method for method in colours if method in curves):
        epoch, name = (collapse.get(method) or {}).get("epoch"), method.upper()
        plot = plots.curves([curves[method]], colours[method], epoch, f"curves-{i}", name)
        panels.append({"title": name, "colour": colours[method], "figure": plot})
    return panels


def _costs(results: list[Json], n: int | None, colours: Mapping[str, str]) -> list[tuple[str, plots.Plot]]:
    attack = strongest_attack(results)
    if attack is None or not all("seconds" in row for row in results):
        return []
    points = []
    for row in results:
        robust = row[attack[0]]
        ends = sampling_interval(robust, n) if n else None
        points.append(Point(row["method"].upper(), colours[row["method"]], row["seconds"], robust, ends))
    return [("", cost_plot(points, "training time, seconds", attack[1], "cost"))]


def _samples(samples: Json, epsilon: float, colours: Mapping[str, str]) -> Json:
    """Images in columns; below them, per method, both perturbations and the adversarial image with its prediction."""
    classes, labels = [str(name) for name in samples["classes"]], samples["labels"]
    truth = [classes[label] for label in labels]

    def perturbed(title: str, deltas: Any) -> Any:
        return None if deltas is None else [perturbation(delta, epsilon, title) for delta in deltas]

    methods = []
    for method in (method for method in colours if method in samples["per_method"]):
        own, name = samples["per_method"][method], method.upper()
        methods.append(
            {
                "name": name,
                "colour": colours[method],
                "initial": perturbed(f"initial perturbation, {name}", own.get("initial")),
                "final": perturbed(f"final perturbation, {name}", own["final"]),
                "adversarial": [picture(image, f"adversarial image, {name}") for image in own["adversarial"]],
                "predictions": [(classes[p], p == y) for p, y in zip(own["predictions"], labels, strict=True)],
            }
        )
    return {
        "truth": truth,
        "images": [picture(image, f"image, {name}") for image, name in zip(samples["images"], truth, strict=True)],
        "grey": np.ndim(samples["images"][0]) == 2,
        "methods": methods,
    }
