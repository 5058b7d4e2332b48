"""The page of some runs: accuracies, comparisons, warnings, curves, cost against robustness, sweeps, settings."""

from __future__ import annotations

from headstart.evaluation.compare import Comparison, alike, compare_records
from headstart.report import plots
from headstart.report.groups import (
    Group,
    attacks,
    collapse_epoch,
    comparable,
    curve,
    group_runs,
    method_of,
    passes_per_update,
    split_settings,
)
from headstart.report.headline import collapses, standing
from headstart.report.numbers import MISSING
from headstart.report.protocol import beside
from headstart.report.reading import Json
from headstart.report.rendering import render


def run_page(runs: list[Json], published: bool = False) -> str:
    """The whole page, of runs as `load_run` reads them; ``published`` sets each beside published numbers.

    Runs that differ in nothing but the seed are averaged; runs that were measured differently never are.
    """
    groups = group_runs(runs)
    points = _points(groups)
    sweeps = _sweeps(groups)
    shared, own = split_settings([run for group in groups for run in group.runs])
    title = runs[0]["name"] if len(runs) == 1 else f"{len(runs)} runs"
    return render(
        "runs.html.j2",
        title=f"headstart report: {title}",
        about=f"headstart report · {title}",
        headline=standing(groups) or title,
        lede=collapses(runs),
        settings={"Settings of every run" if len(runs) > 1 else "Settings": shared},
        measured=[run[part] for run in runs for part in ("cost", "evaluation") if run[part]],
        groups=groups,
        evaluated=[group for group in groups if group.runs[0]["evaluation"]],
        comparable=comparable(groups),
        best=_best(groups),
        attacks=list(dict.fromkeys(name for group in groups for run in group.runs for name in attacks(run))),
        comparisons=_comparisons(runs),
        bounds=[run for run in runs if run["bound"]],
        warnings=_warnings(runs),
        published=[beside(run) for run in runs] if published else None,
        lines=plots.lines_of(curve(run) for run in runs),
        panels=_panels(groups),
        cost=_cost(points, groups) if len(points) > 1 else None,
        bars=any(point.interval for point in points),
        sweeps=sweeps,
        sizes=sorted({size for line in sweeps for size in line["accuracies"]}),
        sweep=plots.sweeps(sweeps, name="sweep") if sweeps else None,
        runs=_rows(groups, own),
        differing=[key for key in own[0] if key != "method"],  # which has a column already
    )


def _best(groups: list[Group]) -> float | None:
    """The highest robust accuracy, where several groups may be compared."""
    known = [spread.mean for group in groups if (spread := group.spread("evaluation", "robust"))]
    return max(known) if comparable(groups) and len(known) > 1 else None


def _comparisons(runs: list[Json]) -> list[Comparison]:
    """The most robust run against each of the others, image by image."""
    evaluated = [run for run in runs if run["evaluation"]]
    if len(evaluated) < 2 or not alike([run["evaluation"] for run in evaluated]):
        return []
    best = max(evaluated, key=lambda run: run["evaluation"]["robust"])
    return [
        compare_records(best["evaluation"], run["evaluation"], (best["name"], run["name"]))
        for run in evaluated
        if run is not best
    ]


def _warnings(runs: list[Json]) -> list[tuple[str, str]]:
    return [
        (run["name"] + part, warning)
        for run in runs
        for record, part in ((run["evaluation"], ""), (run["bound"], ", upper bound"), (run["sweep"], ", sweep"))
        for warning in (record or {}).get("warnings", [])
    ]


def _panels(groups: list[Group]) -> list[Json]:
    panels = []
    for i, group in enumerate(groups):
        seen = [epoch for run in group.runs if (epoch := collapse_epoch(run)) is not None]
        epochs = [curve(run) for run in group.runs]
        figure = plots.curves(epochs, group.colour, min(seen, default=None), name=f"curves-{i}")
        panels.append({"title": group.title, "colour": group.colour, "figure": figure})
    return panels


def _points(groups: list[Group]) -> list[plots.Point]:
    points = []
    for group in groups:
        robust, seconds = group.spread("evaluation", "robust"), group.spread("cost", "seconds")
        if robust and seconds:
            points.append(plots.Point(group.title, group.colour, seconds.mean, robust.mean, robust.interval))
    return points


def _cost(points: list[plots.Point], groups: list[Group]) -> plots.Figure:
    records = [run["evaluation"] for group in groups for run in group.runs if run["evaluation"]]
    suites = {record.get("suite", "attack") for record in records}
    attack = f"suite {suites.pop()}" if len(suites) == 1 else "each run's own suite"
    return plots.cost_against_robustness(points, attack, name="cost")


def _sweeps(groups: list[Group]) -> list[Json]:
    """Accuracy by epsilon of every run that was swept."""
    return [
        {
            "label": run["name"],
            "colour": group.colour,
            "accuracies": dict(zip(run["sweep"]["epsilons"], run["sweep"]["accuracies"], strict=True)),
            **{key: run["sweep"].get(key, MISSING) for key in ("suite", "n", "epsilon")},
        }
        for group in groups
        for run in group.runs
        if run["sweep"]
    ]


def _rows(groups: list[Group], own: list[Json]) -> list[Json]:
    """One row per run: what sets it apart, where it ended, and what it cost."""
    rows = []
    for (run, colour), settings in zip(((r, g.colour) for g in groups for r in g.runs), own, strict=True):
        epochs, memory = curve(run), run["cost"].get("peak_memory_bytes")
        validation: Json = next((row for row in reversed(epochs) if "pgd" in row), {})
        rows.append(
            {
                "name": run["name"],
                "colour": colour,
                "method": method_of(run),
                "epochs": epochs[-1]["epoch"] if epochs else None,
                "validation": validation,
                "collapse": collapse_epoch(run),
                "cost": run["cost"],
                "passes": passes_per_update(run["cost"]),
                "memory": memory / 2**20 if memory else None,
                "settings": settings,
            }
        )
    return rows
