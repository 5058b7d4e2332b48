"""The page of some runs: accuracies, comparisons, warnings, curves, cost against robustness, sweeps, settings."""

from __future__ import annotations

from pathlib import Path

from headstart.evaluation.compare import Comparison, alike, compare_records
from headstart.report import plots, run_tables
from headstart.report.cautions import Caution, cautions, explanations
from headstart.report.cost_plot import Point, cost_plot
from headstart.report.groups import Group, collapse_epoch, comparable, curve, group_runs, measured_by, split_settings
from headstart.report.groups import watched as was_watched
from headstart.report.headline import collapses, standing
from headstart.report.numbers import MISSING, Spread, sampling_interval
from headstart.report.protocol import Beside, beside
from headstart.report.ranking import Ranking, ranking
from headstart.report.reading import Json
from headstart.report.rendering import render
from headstart.report.tables import Table


def run_page(runs: list[Json], published: bool = False, folder: Path | None = None) -> str:
    """The whole page, of runs as `load_run` reads them.

    Runs that differ in nothing but the seed are averaged; runs that were measured differently never are.

    Args:
        published: set each run beside published numbers of its kind.
        folder: beside the page, to write every figure to, as SVG and PDF; the page has links to them.
    """
    groups, alone = group_runs(runs), len(runs) == 1
    title = runs[0]["name"] if alone else f"{len(runs)} runs"
    panels, costs, swept = _panels(groups), _costs(groups), _sweeps(groups, cautions(runs))
    drawn = [*(panel["figure"] for panel in panels), *(plot for _, plot in costs), *(plot for _, _, plot in swept)]
    return render(
        "runs.html.j2",
        title=f"headstart report: {title}",
        about=f"headstart report · {title}",
        lede=collapses(runs),
        settings={"Settings" if alone else "Settings of every run": split_settings(runs)[0]},
        measured=[run[part] for run in runs for part in ("cost", "evaluation") if run[part]],
        figures=drawn,
        folder=folder,
        **_tables(runs, groups, title),
        averaged=len(groups) < len(runs),
        published=_published(runs) if published else None,
        lines=plots.lines_of(curve(run) for run in runs),
        panels=panels,
        unvalidated=[run["name"] for run in runs if not was_watched(run)],
        costs=costs,
        swept=swept,
        bounds=run_tables.bounds(runs),
        each=run_tables.each(groups),
    )


def _tables(runs: list[Json], groups: list[Group], title: str) -> Json:
    """Who is the most robust, and what there is to say against it."""
    comparisons, found = _comparisons(runs), cautions(runs)
    ranks = _ranks(groups, comparisons)
    return {
        "headline": standing(groups, ranks) or title,
        "evaluated": [group for group in groups if group.runs[0]["evaluation"]],
        "comparable": comparable(groups),
        "ranked": ranks is not None and ranks.of > 1,
        "robustness": run_tables.robustness(groups, ranks, not comparable(groups), found),
        "comparisons": comparisons,
        "compared": run_tables.compared(comparisons),
        "cautions": found,
        "explanations": explanations(found),
    }


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


def _ranks(groups: list[Group], comparisons: list[Comparison]) -> Ranking | None:
    """Who is the most robust; None where nobody was evaluated, or not all in the same way."""
    if not comparable(groups):
        return None
    lone = all(len(group.runs) == 1 for group in groups)
    paired = {pair.b: pair.better is None for pair in comparisons} if lone else {}
    return ranking({group.title: group.accuracy("robust") for group in groups}, paired)


def _panels(groups: list[Group]) -> list[Json]:
    """Curves of the groups of which any are known."""
    panels = []
    for i, group in enumerate(groups):
        seen = [epoch for run in group.runs if (epoch := collapse_epoch(run)) is not None]
        epochs = [curve(run) for run in group.runs]
        if plots.lines_of(epochs):
            plot = plots.curves(epochs, group.colour, min(seen, default=None), f"curves-{i}", group.title)
            panels.append({"title": group.title, "colour": group.colour, "figure": plot})
    return panels


def _costs(groups: list[Group]) -> list[tuple[str, plots.Plot]]:
    """A figure for each way of measuring that two groups or more share, with that way in words."""
    points: dict[str, list[Point]] = {}
    suites = {}
    for group in groups:
        robust, seconds, how = group.accuracy("robust"), group.cost("seconds"), measured_by(group.runs[0])
        if robust and seconds and how:
            point = Point(group.title, group.colour, seconds.mean, robust.mean, robust.interval)
            points.setdefault(str(how), []).append(point)
            suites[str(how)] = f"suite {how.suite}"
    return [
        (how, cost_plot(shared, "training time, seconds", suites[how], f"cost-{i}"))
        for i, (how, shared) in enumerate(points.items(), 1)
        if len(shared) > 1
    ]


def _published(runs: list[Json]) -> list[tuple[Beside, Table]]:
    rows = [beside(run) for run in runs]
    return [(found, run_tables.published(found, f"published-{i}")) for i, found in enumerate(rows, 1)]


def _sweeps(groups: list[Group], found: list[Caution]) -> list[tuple[str, Table, plots.Plot]]:
    """Accuracy by epsilon of the runs that were swept: of each data set and norm, a table and a figure."""
    lines: dict[str, list[Json]] = {}
    for group in groups:
        for run in group.runs:
            if run["sweep"]:
                norm = run["sweep"].get("norm", "linf")
                lines.setdefault(f"{run['config'].get('data', 'test images')}, {norm}", []).append(
                    _swept(run, group.colour)
                )
    return [
        (title, run_tables.swept(swept, found, f"sweep-{i}"), plots.sweeps(swept, f"sweep-{i}"))
        for i, (title, swept) in enumerate(lines.items(), 1)
    ]


def _swept(run: Json, colour: str) -> Json:
    sweep = run["sweep"]
    accuracies = dict(zip(sweep["epsilons"], sweep["accuracies"], strict=True))
    n = sweep.get("n")
    spreads = {
        epsilon: Spread(value, None, sampling_interval(value, n) if n else None)
        for epsilon, value in accuracies.items()
    }
    how = {key: sweep.get(key, MISSING) for key in ("suite", "n", "epsilon")}
    return {"label": run["name"], "colour": colour, "accuracies": accuracies, "spreads": spreads, **how}
