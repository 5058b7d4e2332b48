"""The page of an inspection, and its figures as files."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from headstart.report import drawing
from headstart.report.inspect_figures import PANELS, Panel, collapses, colours, histories, over_epochs, standing
from headstart.report.linearity import known, linearity_section
from headstart.report.numbers import MISSING, budget, percent, spread
from headstart.report.reading import Json
from headstart.report.rendering import render
from headstart.report.tables import Column, Row, Table, accuracy, figure, words

TOGETHER = {"standing": standing, "linearity": over_epochs}
"""Figures with all runs on one axes."""


def inspect_page(whole: Json) -> str:
    """The whole page, of what ``headstart.evaluation.inspection`` returns."""
    runs, n = whole["runs"], whole["sample"]
    title = runs[0]["name"] if len(runs) == 1 else f"{len(runs)} runs"
    return render(
        "inspect.html.j2",
        title=f"headstart inspect: {title}",
        about=f"headstart inspect · {whole['data']} · ε = {budget(whole['epsilon'])} · {whole['norm']}",
        headline=_headline(runs),
        lede=_lede(whole),
        settings={"Settings": {key: whole[key] for key in ("data", "norm", "epsilon", "n", "sample", "seed")}},
        measured=[whole],
        figures=[],
        folder=None,  # its figures show the runs side by side, and are written by save_figures
        sample=n,
        numbers=_table(whole),
        panels={panel.name: _panels(panel, whole) for panel in PANELS},
        standing=_alone(standing, whole),
        linearity=linearity_section(histories(whole), collapses(whole), colours(whole)),
        unseen=[(r["name"], r["starts"]["why"]) for r in runs if "why" in r["starts"]],
        blind=[(r["name"], r["attention"]["why"]) for r in runs if r["attention"]["layer"] is None],
    )


def save_figures(whole: Json, folder: Path) -> list[Path]:
    """Every figure with all runs side by side as SVG and PDF; their paths."""
    files = []
    for panel in PANELS:
        shown = [run for run in whole["runs"] if panel.shows(run)]
        if shown:
            figure, axes = _axes(panel, whole, len(shown))
            for run, own in zip(shown, axes, strict=True):
                panel.draw(own, run, whole)
                own.set_title(run["name"])
            files += drawing.save(figure, folder / panel.name)
    for name, draw in TOGETHER.items():
        if name != "linearity" or _linear(whole):
            figure, own = drawing.new(4.6, 2.7)
            draw(own, whole)
            files += drawing.save(figure, folder / name)
    return files


def _headline(runs: list[Json]) -> str:
    """Whose loss is furthest from linear inside the ball, and whose nearest."""
    order = sorted(runs, key=lambda run: run["surface"]["deviation"])
    said = [f"{run['surface']['deviation']:.2f}" for run in (order[-1], order[0])]
    if len(runs) == 1:
        return (
            f"On the way to the worst perturbation the loss of {runs[0]['name']} leaves its linear course by {said[0]}"
        )
    return (
        f"On the way to the worst perturbation the loss of {order[-1]['name']} leaves its linear course by {said[0]}, "
        f"that of {order[0]['name']} by {said[1]}"
    )


def _lede(whole: Json) -> str:
    """Which runs the attack leaves the most and the fewest images of."""
    rows = sorted(_rows(whole), key=lambda row: row["stand"])
    said = [f"{percent(row['stand'], '%')} of the images stand at ε in {row['name']}" for row in (rows[-1], rows[0])]
    return f"{said[0]}." if len(rows) == 1 else f"{said[0]}, {said[1].replace(' of the images stand at ε', '')}."


def _rows(whole: Json) -> list[Json]:
    """The numbers behind the pictures, a row for each run."""
    tints, epochs = colours(whole), collapses(whole)
    rows = []
    for run in whole["runs"]:
        fallen = [float("inf") if value is None else value for value in run["falls"]]
        middle, points = median(fallen), known(run["history"])
        rows.append(
            {
                "name": run["name"],
                "colour": tints[run["name"]],
                "stand": sum(value > whole["epsilon"] for value in fallen) / len(fallen),
                "median": budget(middle) if middle < float("inf") else None,
                "deviation": run["surface"]["deviation"],
                "missed": run["surface"]["missed"],
                "ridge": run["surface"]["ridge"],
                "linearity": points[-1][1] if points else None,
                "collapse": epochs[run["name"]],
            }
        )
    return rows


def _table(whole: Json) -> Table:
    """The rows as a table of a page."""
    columns = [
        Column("run", text=True),
        Column("images that stand at ε, %"),
        Column("median ε of a fall"),
        Column("deviation from linear", "loss"),
        Column("missed by the FGSM step", "loss"),
        Column("ridge", "loss"),
        Column("local linearity"),
        Column("collapse, epoch"),
    ]
    rows = []
    for row in _rows(whole):
        stand = spread([row["stand"]], whole["sample"])
        cells = [words(row["name"], colour=row["colour"]), accuracy(stand), words(row["median"])]
        cells += [figure(row[key], _two) for key in ("deviation", "missed", "ridge", "linearity")]
        rows.append(Row([*cells, words(row["collapse"])]))
    return Table("inspection", "In numbers", columns, rows)


def _two(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _panels(panel: Panel, whole: Json) -> list[Json]:
    """The figure of each run by itself, for a page that may be narrow."""
    found = []
    for run in whole["runs"]:
        if panel.shows(run):
            figure, (axes,) = _axes(panel, whole, 1)
            panel.draw(axes, run, whole)
            found.append({"name": run["name"], "colour": colours(whole)[run["name"]], "figure": drawing.svg(figure)})
    return found


def _axes(panel: Panel, whole: Json, columns: int) -> tuple[Any, Any]:
    width, height = panel.size(whole)
    options = {"subplot_kw": {"projection": panel.projection}} if panel.projection else {}
    figure, axes = drawing.new(columns * width, height, 1, columns, squeeze=False, **options)
    return figure, axes[0]


def _alone(draw: Any, whole: Json) -> str:
    figure, axes = drawing.new(4.6, 2.7)
    draw(axes, whole)
    return drawing.svg(figure)


def _linear(whole: Json) -> bool:
    """Whether some run's record says how linear its loss was."""
    return any(known(run["history"]) for run in whole["runs"])
