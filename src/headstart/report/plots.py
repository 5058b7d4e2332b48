"""Interactive figures, drawn in the page by the one copy of plotly that they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from html import escape as escaped

import plotly.graph_objects as go

from headstart.report.numbers import percent
from headstart.report.reading import Json

escape = partial(escaped, quote=False)  # plotly knows bold and italics by their tags, and no entity for a quote
_GREY = "#8a9099"  # readable on light and dark pages; lines have no style sheet
# Dots of the ladder, as text and as plotly names them.
LADDER_SYMBOLS = {"○": "circle-open", "◇": "diamond-open", "□": "square-open", "●": "circle"}


@dataclass(frozen=True)
class Line:
    """A line of every panel of curves: its key in the curve, and its looks in panel and legend."""

    key: str
    title: str
    dash: str
    dasharray: str
    width: float
    coloured: bool
    """Whether it has the method's colour."""


# PGD is the one to watch, so it alone is solid and heavy.
LINES = (
    Line("clean", "clean", "dot", "1.5 3", 1.5, False),
    Line("train", "adversarial, on training batches", "dashdot", "8 3 1.5 3", 1.5, False),
    Line("fgsm", "FGSM", "dash", "8 4", 2.0, True),
    Line("pgd", "PGD", "solid", "", 2.6, True),
)


@dataclass(frozen=True)
class Figure:
    """What plotly draws at the place of this name, as JSON."""

    name: str
    height: int
    json: str


@dataclass(frozen=True)
class Point:
    """One method or group of runs in the plot of cost against robustness."""

    label: str
    colour: str
    seconds: float
    robust: float
    interval: tuple[float, float] | None = None
    """Ends of the bar through the robust accuracy."""


def curves(runs: list[list[Json]], colour: str, collapse: int | None, name: str) -> Figure:
    """Accuracy over epochs of one method: the runs' curves over one another, the first collapse marked.

    Args:
        runs: for each run, ``{"epoch", "clean", "fgsm", "pgd", "train"}`` per epoch, keys missing where not measured.
        colour: of the FGSM and PGD lines.
        collapse: epoch to mark.
        name: identifies the figure on the page.
    """
    figure = go.Figure()
    thickness = 1.0 if len(runs) == 1 else 0.65
    for line in LINES:
        for epochs in runs:
            points = [row for row in epochs if row.get(line.key) is not None]
            if not points:
                continue
            figure.add_scatter(
                x=[row["epoch"] for row in points],
                y=[row[line.key] for row in points],
                mode="lines" if len(points) > 1 else "markers",
                name=line.title,
                line={"color": colour if line.coloured else _GREY, "dash": line.dash, "width": line.width * thickness},
                hovertemplate="%{y:.1%}",
            )
    if collapse is not None:
        _mark(figure, collapse, max((row["epoch"] for epochs in runs for row in epochs), default=collapse))
    figure.update_xaxes(title="epoch", rangemode="tozero", nticks=6)
    figure.update_yaxes(range=[0, 1.02], dtick=0.25, tickformat=".0%")
    figure.update_layout(hovermode="x unified")
    return _finished(figure, height=255, name=name, top=24)


def lines_of(curves: Iterable[list[Json]]) -> list[Line]:
    """The lines that at least one of the curves has."""
    known = {key for epochs in curves for row in epochs for key, value in row.items() if value is not None}
    return [line for line in LINES if line.key in known]


def cost_against_robustness(points: list[Point], attack: str, name: str) -> Figure:
    """Training seconds against robust accuracy, one labelled point per method, bars where deviations are known."""
    figure = go.Figure()
    slowest = max(point.seconds for point in points)
    for point in points:
        figure.add_scatter(
            x=[point.seconds],
            y=[point.robust],
            error_y=_bar(point),
            mode="markers+text",
            marker={"color": point.colour, "size": 13},
            text=[f"  {escape(point.label)}  "],  # spaces keep it clear of the marker
            textposition="middle right" if point.seconds < 0.6 * slowest else "middle left",  # inside the figure
            textfont={"size": 13},
            hovertemplate=f"{escape(point.label)}: {percent(point.robust, '%')} in %{{x:.1f}} s<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title="training time, seconds", range=[0, 1.05 * slowest])
    top = 1.1 * max(0.01, *(point.interval[1] if point.interval else point.robust for point in points))
    figure.update_yaxes(title=f"accuracy under {escape(attack)}", range=[-0.03 * top, top], tickformat=".1~%")
    return _finished(figure, height=380, name=name, left=62)


def ladder(rows: list[tuple[str, dict[str, float], float]], colour: str, name: str) -> Figure:
    """One line per recipe, from top to bottom: dots at its accuracies, a bar of one deviation at the last.

    Args:
        rows: name, mean accuracy by what it was measured with (four of them, the judge last), and the deviation of
            the last.
        colour: of the last measure's dots; the others are grey.
        name: identifies the figure on the page.
    """
    figure = go.Figure()
    names = [escape(label) for label, _, _ in rows]
    for label, (_, means, _) in zip(names, rows, strict=True):
        ends = [min(means.values()), max(means.values())]
        figure.add_scatter(x=ends, y=[label] * 2, mode="lines", line={"color": _GREY, "width": 1}, hoverinfo="skip")
    judge = list(rows[0][1])[-1]
    deviations = {"array": [std for _, _, std in rows], "color": colour, "thickness": 1.4, "width": 4}
    for symbol, measure in zip(LADDER_SYMBOLS.values(), rows[0][1], strict=True):
        judges = measure == judge
        figure.add_scatter(
            x=[means[measure] for _, means, _ in rows],
            y=names,
            error_x=deviations if judges else None,
            mode="markers",
            name=escape(measure),
            marker={"color": colour if judges else _GREY, "symbol": symbol, "size": 11 if judges else 8},
            hovertemplate=f"%{{y}}, {escape(measure)}: %{{x:.1%}}<extra></extra>",
        )
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%", side="top")
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], type="category", dtick=1)
    return _finished(figure, height=60 + 22 * len(rows), name=name, left=8 * max(map(len, names)) + 12, top=34)


def frontier(points: list[Point], unit: str, attack: str, name: str) -> Figure:
    """Cost against robustness of many recipes; a line joins those that no cheaper one matches, and they are named."""
    best = [p for p in points if not any(q.seconds <= p.seconds and q.robust > p.robust for q in points)]
    best.sort(key=lambda p: p.seconds)
    figure = go.Figure()
    figure.add_scatter(
        x=[p.seconds for p in best],
        y=[p.robust for p in best],
        mode="lines",
        line={"color": _GREY, "width": 1.2, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )
    for point in points:
        leads = point in best
        figure.add_scatter(
            x=[point.seconds],
            y=[point.robust],
            error_y=_bar(point) if leads else None,
            mode="markers+text",
            marker={"color": point.colour if leads else _GREY, "size": 11 if leads else 8},
            text=[escape(point.label) if leads else ""],
            textposition="top left",
            hovertemplate=f"{escape(point.label)}: {percent(point.robust, '%')} in %{{x:.1f}} s<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title=unit, type="log", tickformat="~r", dtick="D2")
    figure.update_yaxes(title=f"accuracy under {escape(attack)}", tickformat=".1~%", rangemode="tozero")
    return _finished(figure, height=440, name=name, left=62)


def sweeps(lines: list[Json], name: str) -> Figure:
    """Accuracy over epsilon; each run's own epsilon is ringed.

    Args:
        lines: of each run, ``{"label", "colour", "accuracies", "epsilon"}``, the accuracies by epsilon.
        name: identifies the figure on the page.
    """
    figure = go.Figure()
    for line in lines:
        sizes = list(line["accuracies"])
        figure.add_scatter(
            x=sizes,
            y=list(line["accuracies"].values()),
            mode="lines+markers",
            name=line["label"],
            line={"color": line["colour"], "width": 2},
            marker={"color": line["colour"], "size": [11 if size == line["epsilon"] else 5 for size in sizes]},
            hovertemplate=f"{escape(line['label'])}: %{{y:.1%}} at %{{x:.4f}}<extra></extra>",
        )
    figure.update_xaxes(title="epsilon, pixel fraction", rangemode="tozero")
    figure.update_yaxes(range=[-0.02, 1.02], dtick=0.25, tickformat=".0%")
    return _finished(figure, height=300, name=name)


def _mark(figure: go.Figure, collapse: int, last: int) -> None:
    """A line and a note at the epoch of the collapse."""
    figure.add_vline(x=collapse, line={"width": 1.2, "color": _GREY})
    figure.add_annotation(
        x=collapse,
        y=1,
        yref="y domain",
        yanchor="bottom",
        # Centred, but kept inside the panel near its edges.
        xanchor="left" if collapse < 0.2 * last else "right" if collapse > 0.8 * last else "center",
        showarrow=False,
        text=f"collapse, epoch {collapse}",
    )


def _bar(point: Point) -> dict[str, object]:
    if point.interval is None:
        return {"visible": False}
    low, high = point.interval
    ends = {"array": [high - point.robust], "arrayminus": [point.robust - low]}
    return {**ends, "symmetric": False, "color": point.colour, "thickness": 1.4, "width": 4}


def _finished(figure: go.Figure, height: int, name: str, left: int = 46, top: int = 12) -> Figure:
    transparent = "rgba(0,0,0,0)"
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": left, "r": 12, "t": top, "b": 42},
        paper_bgcolor=transparent,
        plot_bgcolor=transparent,
        showlegend=False,
        hoverlabel={"bgcolor": "#22262c", "font": {"color": "#f2f2f2"}},  # readable on light and dark pages
        font={"family": "system-ui, sans-serif", "size": 12},
        dragmode=False,  # a finger that scrolls a phone must not zoom the figure
    )
    figure.update_xaxes(zeroline=False, showgrid=False, title_standoff=8)
    figure.update_yaxes(zeroline=True, title_standoff=8)
    # Plotly writes "<" as an escape, so no text inside can end the script that it stands in.
    return Figure(name, height, str(figure.to_json()))
