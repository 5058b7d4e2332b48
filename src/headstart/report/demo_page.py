"""The page of the demo: what became of each method, its curves, its cost, and its perturbations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headstart.report import plots
from headstart.report.colours import colour
from headstart.report.headline import bargain, headline, strongest_attack
from headstart.report.linearity import linearity_section
from headstart.report.numbers import budget, sampling_interval
from headstart.report.pictures import perturbation, picture
from headstart.report.reading import Json
from headstart.report.rendering import render


def demo_page(demo: Json, details: Json) -> str:
    """The whole page.

    Args:
        demo: ``{"data", "epsilon", "results": [{"method", "seconds", "clean", "fgsm", "pgd", "autoattack"}]}``, with
            ``"n"``, ``"seed"`` and ``"environment"`` where known; accuracies are fractions. Whatever else it holds is
            listed in the footer.
        details: ``{"curves", "collapse", "samples", "passes"}``, each by method; parts that are missing are left out.
    """
    results, n = demo["results"], demo.get("n")
    colours = {row["method"]: colour(i) for i, row in enumerate(results)}
    curves, collapse, samples = (details.get(part) or {} for part in ("curves", "collapse", "samples"))
    about = [f"data: {demo['data']}", f"ε = {budget(demo['epsilon'])}"]
    about += [f"{title} {demo[key]}" for key, title in (("n", "test images:"), ("seed", "seed")) if key in demo]
    low, high = sampling_interval(0.5, n) if n else (0.0, 1.0)
    return render(
        "demo.html.j2",
        title="headstart demo",
        about=" · ".join(about),
        headline=headline(results, collapse),
        lede=bargain(results),
        settings={"Settings": {key: demo[key] for key in demo if key not in ("results", "environment")}},
        measured=[demo],
        n=n,
        epsilon=demo["epsilon"],
        sampling_error=(high - low) / 2,
        results=_results(results, details.get("passes") or {}, colours),
        lines=plots.lines_of(curves.values()),
        panels=_panels(curves, collapse, colours),
        linearity=linearity_section(curves, {m: (seen or {}).get("epoch") for m, seen in collapse.items()}, colours),
        cost=_cost(results, n, colours),
        samples=samples and _samples(samples, demo["epsilon"], colours),
    )


def _results(results: list[Json], passes: Json, colours: Mapping[str, str]) -> list[Json]:
    """A row per method; ``best`` names the attacks under which no other method is more accurate."""
    columns = ("clean", "fgsm", "pgd", "autoattack", "seconds")
    best = {
        attack: max((row[attack] for row in results if row.get(attack) is not None), default=None)
        for attack in ("pgd", "autoattack")
    }
    return [
        {
            **{key: row.get(key) for key in columns},
            "name": row["method"].upper(),
            "colour": colours[row["method"]],
            "passes": passes.get(row["method"], {}),
            "best": {attack for attack, highest in best.items() if highest is not None and row.get(attack) == highest},
        }
        for row in results
    ]


def _panels(curves: Json, collapse: Json, colours: Mapping[str, str]) -> list[Json]:
    shown = [method for method in colours if method in curves]
    return [
        {
            "title": method.upper(),
            "colour": colours[method],
            "figure": plots.curves(
                [curves[method]], colours[method], (collapse.get(method) or {}).get("epoch"), name=f"curves-{i}"
            ),
        }
        for i, method in enumerate(shown)
    ]


def _cost(results: list[Json], n: int | None, colours: Mapping[str, str]) -> plots.Figure | None:
    attack = strongest_attack(results)
    if attack is None or not all("seconds" in row for row in results):
        return None
    key, attack_name = attack
    points = [
        plots.Point(
            row["method"].upper(),
            colours[row["method"]],
            row["seconds"],
            row[key],
            sampling_interval(row[key], n) if n else None,
        )
        for row in results
    ]
    return plots.cost_against_robustness(points, attack_name, name="cost")


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
