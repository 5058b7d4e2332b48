"""The report: one HTML page with everything inside, so that it opens offline and can be mailed."""

from __future__ import annotations

from collections.abc import Iterable

from headstart.evaluation.compare import alike, compare_records
from headstart.report import plots, tables
from headstart.report.headline import bargain, collapses, headline, standing, strongest_attack
from headstart.report.layout import document, footer, header, note, panel, section
from headstart.report.pictures import perturbation_key, samples_table
from headstart.report.records import Group, Record, collapse_epoch, curve, group_runs, sampling_interval, split_settings
from headstart.report.style import colour as colour_at
from headstart.report.tables import budget, escape

_READ_CURVES = (
    "The network collapses (catastrophic overfitting) where the solid line falls while the dashed one stays up: it has "
    "learnt to answer the single step it is trained on, and nothing stronger."
)
_READ_COST = "Up and to the left is better: more robustness for less training."
_READ_SWEEP = (
    "Large dots: the epsilon a network was trained for. Every curve has to reach zero; one that does not shows attacks "
    "that fail, not robustness."
)


def demo_page(demo: Record, details: Record) -> str:
    """The demo's page: what became of each method, its curves, its cost, and its perturbations.

    Args:
        demo: ``{"data", "epsilon", "results": [{"method", "seconds", "clean", "fgsm", "pgd", "autoattack"}]}``, with
            ``"n"``, ``"seed"`` and ``"environment"`` where known; accuracies are fractions. Whatever else it holds is
            listed in the footer.
        details: ``{"curves", "collapse", "samples", "passes"}``, each by method; parts that are missing are left out.
    """
    results: list[Record] = demo["results"]
    colours = {row["method"]: colour_at(i) for i, row in enumerate(results)}
    collapse = details.get("collapse") or {}
    about = [f"data: {demo['data']}", f"ε = {budget(demo['epsilon'])}"]
    about += [f"{title} {demo[key]}" for key, title in (("n", "test images:"), ("seed", "seed")) if key in demo]
    sections = [
        header(" · ".join(about), headline(results, collapse), bargain(results)),
        _demo_results(demo, details.get("passes") or {}, colours),
        _demo_curves(details.get("curves") or {}, collapse, colours),
        _demo_cost(demo, colours),
        _demo_samples(details.get("samples"), demo["epsilon"], colours),
        footer("Settings", {key: demo[key] for key in demo if key not in ("results", "environment")}, [demo]),
    ]
    return document("headstart demo", sections)


def run_page(runs: list[Record]) -> str:
    """A page on some runs, as `load_run` reads them: tables, curves, cost against robustness, settings.

    Runs that differ in nothing but the seed are averaged; runs that were measured differently never are.
    """
    groups = group_runs(runs)
    title = runs[0]["name"] if len(runs) == 1 else f"{len(runs)} runs"
    measured = [run[part] for run in runs for part in ("cost", "evaluation") if run[part]]
    sections = [
        header(f"headstart report · {title}", standing(groups) or title, collapses(runs)),
        _run_results(groups),
        _run_comparisons(runs),
        _warnings(runs),
        _run_curves(groups),
        _run_cost(groups),
        _run_sweeps(groups),
        section("Each run" if len(runs) > 1 else "The run", "", tables.runs_table(groups)),
        footer("Settings of every run" if len(runs) > 1 else "Settings", split_settings(runs)[0], measured),
    ]
    return document(f"headstart report: {title}", sections)


def _demo_results(demo: Record, passes: Record, colours: dict[str, str]) -> str:
    text = (
        "The number to quote is AutoAttack. PGD-20 flatters models trained with smoothed labels, whose gradients are "
        "harder to follow, and FGSM flatters a collapsed one most of all. The best PGD-20 and AutoAttack accuracies "
        "are underlined."
    )
    if demo.get("n"):
        low, high = sampling_interval(0.5, demo["n"])
        error = tables.percent((high - low) / 2)
        text += (
            f" With {escape(demo['n'])} test images an accuracy is known to ±{error} points at worst (95%), "
            "before any difference between seeds."
        )
    return section("Accuracy and cost", "", tables.results_table(demo["results"], passes, colours) + note(text))


def _demo_curves(curves: Record, collapse: Record, colours: dict[str, str]) -> str:
    panels: list[str] = []
    for method, colour in colours.items():
        if method in curves:
            marked = (collapse.get(method) or {}).get("epoch")
            figure = plots.curves([curves[method]], colour, marked, name=f"curves-{len(panels)}")
            panels.append(panel(method.upper(), colour, figure))
    return _panels("Validation accuracy after each epoch", panels, curves.values())


def _demo_cost(demo: Record, colours: dict[str, str]) -> str:
    results, n = demo["results"], demo.get("n")
    attack = strongest_attack(results)
    if attack is None or not all("seconds" in row for row in results):
        return ""
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
    read = _READ_COST + (" Bars: 95% sampling interval of the test images." if n else "")
    return _cost(points, attack_name, read)


def _demo_samples(samples: Record | None, epsilon: float, colours: dict[str, str]) -> str:
    if not samples:
        return ""
    read = (
        "Each column is one image. The initial perturbation is where a method starts, the final one what it trains on; "
        "the prediction is the trained network's own for the adversarial image."
    )
    body = perturbation_key(samples, epsilon) + samples_table(samples, epsilon, colours)
    return section("Perturbations", read, body)


def _run_results(groups: list[Group]) -> str:
    evaluated = [group for group in groups if group.runs[0]["evaluation"]]
    notes = ["Robust is the worst case over all attacks of the suite."]
    if not evaluated:
        notes = ["No robust accuracy has been measured yet: run <code>headstart evaluate</code> on these runs."]
    if not tables.comparable(groups):
        notes.append("These runs were measured in different ways, so their robust accuracies must not be compared.")
    elif evaluated:
        notes.append(f"Suite: {escape(tables.measure(evaluated[0].runs[0]))}.")
    if len(evaluated) > 1 and tables.comparable(groups):
        notes.append("The best robust accuracy is underlined.")
    if any(len(group.runs) > 1 for group in groups):
        notes.append("± is the sample standard deviation over runs that differ only in their seed.")
    return section("Robustness", "", tables.groups_table(groups) + note(" ".join(notes)))


def _run_comparisons(runs: list[Record]) -> str:
    evaluated = [run for run in runs if run["evaluation"]]
    if len(evaluated) < 2 or not alike([run["evaluation"] for run in evaluated]):
        return ""
    best = max(evaluated, key=lambda run: run["evaluation"]["robust"])
    compared = [
        compare_records(best["evaluation"], run["evaluation"], (best["name"], run["name"]))
        for run in evaluated
        if run is not best
    ]
    read = (
        f"{escape(best['name'])}, the most robust run, against each of the others on the same {compared[0].n} images. "
        "A difference is called shown where its 95% interval excludes zero and McNemar's test gives p below 5%."
    )
    body = tables.comparison_table(compared) + note(
        "This is about these networks. Whether one method is better than another takes several seeds of both."
    )
    return section("Is the best one better?", read, body)


def _run_curves(groups: list[Group]) -> str:
    panels = []
    for i, group in enumerate(groups):
        epochs = [curve(run) for run in group.runs]
        collapses = [epoch for run in group.runs if (epoch := collapse_epoch(run)) is not None]
        figure = plots.curves(epochs, group.colour, min(collapses, default=None), name=f"curves-{i}")
        panels.append(panel(group.title, group.colour, figure))
    return _panels("Accuracy over epochs", panels, (curve(run) for group in groups for run in group.runs))


def _run_cost(groups: list[Group]) -> str:
    points = []
    for group in groups:
        robust, seconds = group.spread("evaluation", "robust"), group.spread("cost", "seconds")
        if robust and seconds:
            bars = (robust.mean - robust.std, robust.mean + robust.std) if robust.std is not None else None
            points.append(plots.Point(group.title, group.colour, seconds.mean, robust.mean, bars))
    if len(points) < 2:
        return ""
    suites = {run["evaluation"].get("suite", "attack") for group in groups for run in group.runs if run["evaluation"]}
    read = _READ_COST
    if any(point.interval for point in points):
        read += " Bars: standard deviation over seeds."
    if not tables.comparable(groups):
        read += " Not all points were measured in the same way."
    return _cost(points, f"suite {suites.pop()}" if len(suites) == 1 else "each run's own suite", read)


def _run_sweeps(groups: list[Group]) -> str:
    lines = [(run["name"], group.colour, run["sweep"]) for group in groups for run in group.runs if run.get("sweep")]
    if not lines:
        return ""
    figure = f'<div class="card panel">{plots.sweeps(lines, name="sweep")}</div>'
    return section("Accuracy over epsilon", _READ_SWEEP, figure + tables.sweep_table(lines))


def _warnings(runs: list[Record]) -> str:
    items = "".join(
        f'<p class="warning"><strong>{escape(run["name"])}{part}:</strong> {escape(warning)}</p>'
        for run in runs
        for record, part in ((run["evaluation"], ""), (run.get("sweep"), ", sweep"))
        for warning in (record or {}).get("warnings", [])
    )
    read = "The evaluation itself found a reason to doubt these numbers."
    return section("Warnings", read, items) if items else ""


def _cost(points: list[plots.Point], attack: str, read: str) -> str:
    figure = plots.cost_against_robustness(points, attack, name="cost")
    return section("Cost against robustness", read, f'<div class="card panel">{figure}</div>')


def _panels(title: str, panels: list[str], curves: Iterable[list[Record]]) -> str:
    keys = {key for epochs in curves for row in epochs for key, value in row.items() if value is not None}
    if not keys:
        return ""
    body = plots.legend(keys) + f'<div class="panels">{"".join(panels)}</div>'
    return section(title, _READ_CURVES if {"fgsm", "pgd"} <= keys else "", body)
