"""The page of a bench: every recipe's accuracies over all seeds, and what its training cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.report import plots
from headstart.report.by_time import drawn, tabled
from headstart.report.colours import colour
from headstart.report.cost_plot import Point, cost_plot
from headstart.report.groups import Measure
from headstart.report.numbers import Spread, spread
from headstart.report.ranking import Ranking, ranking
from headstart.report.reading import Json
from headstart.report.rendering import render
from headstart.report.run_tables import PASSES_COLUMNS, passes_cells
from headstart.report.tables import Cell, Column, Row, Table, accuracy, mean, words

_COSTS = {"cpu_seconds": "processor time of the run, validation included, seconds", "seconds": "training, seconds"}
_ACCURACIES = ("clean", "fgsm", "pgd-20", "robust")


@dataclass(frozen=True)
class Recipe:
    """A recipe: its short name, the spread of its figures over seeds, and in how many of them it collapsed."""

    name: str
    seeds: int
    spreads: dict[str, Spread | None]
    passes: dict[str, float]
    collapsed: int


@dataclass(frozen=True)
class Part:
    """What may be compared: the recipes of one data set, norm and epsilon."""

    title: str
    lede: str
    ladder: plots.Plot
    cost: plots.Plot
    table: Table
    lines: list[plots.Line]
    panels: list[Json]


def bench_page(summary: Json, folder: Path | None = None) -> str:
    """A page on the summary that `headstart.campaigns.bench` writes as ``table.json``.

    Recipes of one data set, norm and epsilon stand together, in the summary's order, the most robust first. Their
    names lose the book if all share one.

    Args:
        folder: beside the page, to write every figure to, as SVG and PDF; the page has links to them.
    """
    suite = {"standard": "AutoAttack"}.get(summary["suite"], f"suite {summary['suite']}")
    measures = {"clean": "clean", "FGSM": "fgsm", "PGD-20": "pgd-20", suite: "robust"}
    parts = [
        _part(how, rows, measures, summary["cost"], f"-{i}" if i else "")
        for i, (how, rows) in enumerate(_measured_alike(summary).items())
    ]
    recipes, curves = len(summary["rows"]), summary.get("by_time")
    by_time = (drawn(curves, summary["cost"], suite), tabled(curves, summary["cost"])) if curves else None
    return render(
        "bench.html.j2",
        title=f"headstart bench: {recipes} recipes",
        about=" · ".join(part.title for part in parts),
        headline=f"{recipes} recipes, measured side by side",
        lede=parts[0].lede if len(parts) == 1 else "",
        settings={"Measurement": {key: summary[key] for key in ("suite", "n", "epsilon")}},
        measured=[summary],
        figures=[
            *(figure for part in parts for figure in (part.ladder, part.cost)),
            *(panel["figure"] for part in parts for panel in part.panels),
            *([by_time[0]] if by_time else []),
        ],
        folder=folder,
        suite=suite,
        symbols=list(zip(plots.LADDER_SYMBOLS, measures, strict=True)),
        compared=parts,
        by_time=by_time,
        device_note=device_note(summary.get("devices", {})),
    )


def device_note(devices: dict[str, list[str]]) -> str:
    """Which recipes were measured on which device, a sentence; empty where there is one."""
    if len(devices) < 2:
        return ""
    each = "; ".join(f"{device}: {', '.join(names)}" for device, names in devices.items())
    return f"Seconds compare only within one device. {each}."


def _measured_alike(summary: Json) -> dict[Measure, list[Json]]:
    found: dict[Measure, list[Json]] = {}
    for row in summary["rows"]:
        fields = row["recipe_fields"]
        epsilon, n = fields.get("epsilon", summary["epsilon"]), row.get("n", summary["n"])
        data = fields.get("data") or row["recipe"].rpartition("/")[0] or None
        how = Measure(summary["suite"], n, epsilon, fields.get("norm", "linf"), data)
        found.setdefault(how, []).append(row)
    return found


def _part(how: Measure, rows: list[Json], measures: dict[str, str], cost: str, suffix: str) -> Part:
    recipes = _recipes(rows, how.n)
    ranks = ranking({recipe.name: recipe.spreads["robust"] for recipe in recipes})
    assert ranks is not None  # a recipe of a bench has been measured
    *_, suite = measures
    points, lines = [], []
    for recipe in recipes:
        robust, spent = recipe.spreads["robust"], recipe.spreads[cost]
        if robust and spent:
            points.append(Point(recipe.name, colour(2), spent.mean, robust.mean, robust.interval))
        means = {title: found.mean for title, key in measures.items() if (found := recipe.spreads[key])}
        lines.append((recipe.name, means, robust.interval if robust else None))
    return Part(
        str(how),
        _lede(recipes, ranks, suite),
        plots.ladder(lines, colour(2), f"ladder{suffix}"),
        cost_plot(points, _COSTS[cost], suite, f"cost{suffix}"),
        _table(recipes, ranks, measures, f"recipes{suffix}"),
        plots.lines_of(curve for row in rows for curve in row.get("curves", [])),
        _panels(rows, recipes, suffix),
    )


def _panels(rows: list[Json], recipes: list[Recipe], suffix: str) -> list[Json]:
    """Curves of the recipes that have them, all seeds over one another."""
    return [
        {
            "title": recipe.name,
            "colour": colour(2),
            "figure": plots.curves(
                row["curves"],
                colour(2),
                min((epochs[0] for epochs in row["collapsed_epochs"] if epochs), default=None),
                f"curves-{i}{suffix}",
                recipe.name,
            ),
        }
        for i, (row, recipe) in enumerate(zip(rows, recipes, strict=True))
        if row.get("curves")
    ]


def _recipes(rows: list[Json], n: int | None) -> list[Recipe]:
    one_set = len({row["recipe"].rpartition("/")[0] for row in rows}) == 1
    return [
        Recipe(
            row["recipe"].rpartition("/")[2] if one_set else row["recipe"],
            len(row["seeds"]),
            {
                **{key: spread(row[key], n) for key in _ACCURACIES},
                **{key: spread(row[key]) for key in ("seconds", "cpu_seconds")},
            },
            row["passes_per_update"],
            sum(map(bool, row["collapsed_epochs"])),
        )
        for row in rows
    ]


def _lede(recipes: list[Recipe], ranks: Ranking, suite: str) -> str:
    sentence = f"{ranks.sentence(f'accuracy under {suite}')}."
    collapsed = sum(recipe.collapsed > 0 for recipe in recipes)
    if not collapsed:
        return f"{sentence} None collapsed."
    return f"{sentence} The monitor saw {collapsed} of {len(recipes)} recipes collapse in at least one seed."


def _table(recipes: list[Recipe], ranks: Ranking, measures: dict[str, str], name: str) -> Table:
    columns = [Column("recipe", text=True), Column("seeds")]
    columns += [Column(title, "accuracy on test images, %", headline=measures[title] == "robust") for title in measures]
    columns += [Column("training, seconds"), Column("processor, seconds"), *PASSES_COLUMNS, Column("collapsed")]
    rows = []
    for recipe in recipes:
        cells = [words(recipe.name), Cell(str(recipe.seeds), float(recipe.seeds))]
        for key in measures.values():
            best = key == "robust" and len(recipes) > 1 and recipe.name in ranks.top
            cells.append(accuracy(recipe.spreads[key], best))
        cells += [mean(recipe.spreads[key]) for key in ("seconds", "cpu_seconds")]
        cells += [*passes_cells(recipe.passes), Cell(str(recipe.collapsed), float(recipe.collapsed))]
        rows.append(Row(cells))
    return Table(name, "Every recipe", columns, rows)
