"""Interactive figures, as pieces of HTML that share one copy of plotly on the page."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from headstart.report.records import Record
from headstart.report.tables import escape, percent

# The lines of every panel: key of a curve, what the legend calls it, dash, width, and whether it has the method's
# colour. PGD is the one to watch, so it alone is solid and heavy.
LINES = (
    ("clean", "clean", "dot", 1.5, False),
    ("train", "adversarial, on training batches", "dashdot", 1.5, False),
    ("fgsm", "FGSM", "dash", 2.0, True),
    ("pgd", "PGD", "solid", 2.6, True),
)
# Dots of the ladder, as text and as plotly names them.
LADDER_SYMBOLS = {"○": "circle-open", "◇": "diamond-open", "□": "square-open", "●": "circle"}
_GREY = "#8a9099"  # readable on light and dark pages; lines have no style sheet
_DASHES = {"dot": "1.5 3", "dashdot": "8 3 1.5 3", "dash": "8 4", "solid": ""}

# Runs at the end of the page: a figure takes its width from a layout that must be complete by then.
DRAW = """
for (const source of document.querySelectorAll('script[data-for]')) {
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.for, figure.data, figure.layout, {displayModeBar: false, responsive: true});
}
"""


@dataclass(frozen=True)
class Point:
    """One method or group of runs in the plot of cost against robustness."""

    label: str
    colour: str
    seconds: float
    robust: float
    interval: tuple[float, float] | None = None
    """Ends of the bar through the robust accuracy."""


def curves(runs: list[list[Record]], colour: str, collapse: int | None, name: str) -> str:
    """Accuracy over epochs of one method: the runs' curves over one another, the first collapse marked.

    Args:
        runs: for each run, ``{"epoch", "clean", "fgsm", "pgd", "train"}`` per epoch, keys missing where not measured.
        colour: of the FGSM and PGD lines.
        collapse: epoch to mark.
        name: identifies the figure on the page.
    """
    figure = go.Figure()
    thickness = 1.0 if len(runs) == 1 else 0.65
    for key, title, dash, width, coloured in LINES:
        for epochs in runs:
            points = [row for row in epochs if row.get(key) is not None]
            if not points:
                continue
            figure.add_scatter(
                x=[row["epoch"] for row in points],
                y=[row[key] for row in points],
                mode="lines" if len(points) > 1 else "markers",
                name=title,
                line={"color": colour if coloured else _GREY, "dash": dash, "width": width * thickness},
                hovertemplate="%{y:.1%}",
            )
    if collapse is not None:
        last = max((row["epoch"] for epochs in runs for row in epochs), default=collapse)
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
    figure.update_xaxes(title="epoch", rangemode="tozero", nticks=6)
    figure.update_yaxes(range=[0, 1.02], dtick=0.25, tickformat=".0%")
    figure.update_layout(hovermode="x unified")
    return _html(figure, height=255, name=name, top=24)


def cost_against_robustness(points: list[Point], attack: str, name: str) -> str:
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
    figure.update_yaxes(title=f"accuracy under {escape(attack)}", range=[-0.03 * top, top], tickformat=".0%")
    return _html(figure, height=380, name=name, left=62)


def ladder(rows: list[tuple[str, dict[str, float], float]], colour: str, name: str) -> str:
    """One line per recipe, from top to bottom: dots at its accuracies, a bar of one deviation at the last.

    Args:
        rows: name, mean accuracy by what it was measured with (four of them, the judge last), and the deviation of
            the last.
        colour: of the last measure's dots; the others are grey.
        name: identifies the figure on the page.
    """
    figure = go.Figure()
    names = [escape(label) for label, _, _ in rows]
    measures = list(rows[0][1])
    for label, means, _ in rows:
        ends = [min(means.values()), max(means.values())]
        figure.add_scatter(
            x=ends, y=[escape(label)] * 2, mode="lines", line={"color": _GREY, "width": 1}, hoverinfo="skip"
        )
    for symbol, measure in zip(LADDER_SYMBOLS.values(), measures, strict=True):
        last = measure == measures[-1]
        figure.add_scatter(
            x=[means[measure] for _, means, _ in rows],
            y=names,
            error_x={"array": [deviation for _, _, deviation in rows], "color": colour, "thickness": 1.4, "width": 4}
            if last
            else None,
            mode="markers",
            name=escape(measure),
            marker={"color": colour if last else _GREY, "symbol": symbol, "size": 11 if last else 8},
            hovertemplate=f"%{{y}}, {escape(measure)}: %{{x:.1%}}<extra></extra>",
        )
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%", side="top")
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], type="category", dtick=1)
    return _html(figure, height=60 + 22 * len(rows), name=name, left=8 * max(map(len, names)) + 12, top=34)


def frontier(points: list[Point], unit: str, attack: str, name: str) -> str:
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
    figure.update_yaxes(title=f"accuracy under {escape(attack)}", tickformat=".0%", rangemode="tozero")
    return _html(figure, height=440, name=name, left=62)


def sweeps(lines: list[tuple[str, str, Record]], name: str) -> str:
    """Accuracy over epsilon, one line per run of ``(label, colour, record)``; each run's own epsilon is ringed."""
    figure = go.Figure()
    for label, colour, record in lines:
        sizes, own = record["epsilons"], record.get("epsilon")
        figure.add_scatter(
            x=sizes,
            y=record["accuracies"],
            mode="lines+markers",
            name=label,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": [11 if size == own else 5 for size in sizes]},
            hovertemplate=f"{escape(label)}: %{{y:.1%}} at %{{x:.4f}}<extra></extra>",
        )
    figure.update_xaxes(title="epsilon, pixel fraction", rangemode="tozero")
    figure.update_yaxes(range=[-0.02, 1.02], dtick=0.25, tickformat=".0%")
    return _html(figure, height=300, name=name)


def legend(keys: set[str]) -> str:
    """What the lines of the panels mean, for the curves that are there."""
    items = "".join(
        f'<span><svg viewBox="0 0 34 8" aria-hidden="true"><line x1="0" y1="4" x2="34" y2="4" '
        f'stroke-width="{width}" stroke-dasharray="{_DASHES[dash]}"/></svg>{title}</span>'
        for key, title, dash, width, _ in LINES
        if key in keys
    )
    return f'<div class="key">{items}</div>'


def _bar(point: Point) -> dict[str, object]:
    if point.interval is None:
        return {"visible": False}
    low, high = point.interval
    ends = {"array": [high - point.robust], "arrayminus": [point.robust - low]}
    return {**ends, "symmetric": False, "color": point.colour, "thickness": 1.4, "width": 4}


def _html(figure: go.Figure, height: int, name: str, left: int = 46, top: int = 12) -> str:
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
    data = figure.to_json()  # plotly writes "<" as an escape, so no text inside can end the script
    return (
        f'<div class="plot" id="{name}" style="height:{height}px"></div>'
        f'<script type="application/json" data-for="{name}">{data}</script>'
    )
