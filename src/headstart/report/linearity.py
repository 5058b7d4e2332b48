"""Local linearity over the epochs: the lines of all runs, and whether one fell before its run collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.report import drawing
from headstart.report.plots import Plot
from headstart.report.reading import Json

Curves = Mapping[str, list[Json]]


def linearity_section(curves: Curves, collapse: Mapping[str, int | None], colours: Mapping[str, str]) -> Json | None:
    """Figure and verdicts, ``{"figure", "verdicts"}``, for a page; None where no run measured it.

    Args:
        curves: of each run, ``{"epoch", "linearity"}`` per epoch, keys missing where not measured.
        collapse: epoch of each run's first collapse, None where there was none.
        colours: of the runs.
    """
    if not any(known(rows) for rows in curves.values()):
        return None
    figure, axes = drawing.new(4.6, 2.7)
    draw(axes, curves, collapse, colours)
    plot = Plot("linearity", "Local linearity over the epochs", figure)
    return {"figure": plot, "verdicts": verdicts(curves, collapse)}


def known(rows: list[Json]) -> list[tuple[int, float]]:
    """Epoch and linearity, where it was measured."""
    return [(row["epoch"], row["linearity"]) for row in rows if row.get("linearity") is not None]


def draw(axes: Any, curves: Curves, collapse: Mapping[str, int | None], colours: Mapping[str, str]) -> None:
    """One line per run, with a cross where it collapsed first."""
    for name, rows in curves.items():
        points = known(rows)
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), color=colours[name], label=name, lw=1.6)
        at = dict(points).get(collapse.get(name) or -1)
        if at is not None:
            axes.plot([collapse[name]], [at], "X", color=colours[name], ms=8, mec="white", mew=0.6)
    axes.set(xlabel="epoch (a cross marks the first collapse)", ylabel="local linearity", ylim=(-0.02, 1.02))
    drawing.legend(axes, "lower left", ncols=2)


def verdicts(curves: Curves, collapse: Mapping[str, int | None]) -> list[str]:
    """For each run that collapsed, whether its linearity said so before.

    It said so where it was lower than ever in the runs that did not collapse.
    """
    calm = [value for name, rows in curves.items() if collapse.get(name) is None for _, value in known(rows)]
    fallen = {name: epoch for name, rows in curves.items() if (epoch := collapse.get(name)) and known(rows)}
    if not fallen:
        return ["No run collapsed, so there was nothing to warn of."]
    if not calm:
        return ["Every run collapsed, so there is none to say how far local linearity falls without a collapse."]
    lowest = min(calm)
    return [_verdict(name, epoch, known(curves[name]), lowest) for name, epoch in fallen.items()]


def _verdict(name: str, collapse: int, points: list[tuple[int, float]], lowest: float) -> str:
    warned = next((epoch for epoch, value in points if value < lowest), None)
    said = f"below {lowest:.2f}, the lowest of the runs that did not collapse"
    if warned is None:
        return f"{name} collapsed at epoch {collapse}; its local linearity never fell {said}, and gave no warning."
    if warned < collapse:
        return f"The local linearity of {name} fell {said}, at epoch {warned}, before the collapse at epoch {collapse}."
    when = "with the collapse" if warned == collapse else f"only at epoch {warned}"
    return f"{name} collapsed at epoch {collapse}; its local linearity fell {said}, {when}, and gave no warning."
