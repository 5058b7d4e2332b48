"""The figures of the pages. Whoever points at a dot reads its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.report import drawing
from headstart.report.numbers import budget, percent
from headstart.report.reading import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 9.0, 4.2  # inches, for a window and for a phone
GREY = "#8a9099"  # readable on light and dark pages
_TIPS = 20  # of a panel of curves
# Dots of the ladder as text and as matplotlib names them; the last is filled.
LADDER_SYMBOLS = {"○": "o", "◇": "D", "□": "s", "●": "o"}


@dataclass(frozen=True)
class Line:
    """A line of every panel of curves: its key in the curve, and its looks in panel and legend."""

    key: str
    title: str
    dashes: tuple[float, ...]
    """Of the legend, in pixels: ink, gap and so on; none for a solid line."""
    width: float
    coloured: bool
    """Whether it has the method's colour."""


# PGD is the one to watch, so it alone is solid and heavy.
LINES = (
    Line("clean", "clean", (1.5, 3), 1.2, False),
    Line("train", "adversarial, on training batches", (8, 3, 1.5, 3), 1.2, False),
    Line("fgsm", "FGSM", (8, 4), 1.5, True),
    Line("pgd", "PGD", (), 2.0, True),
)


@dataclass(frozen=True)
class Plot:
    """A figure of a page, by its name: for wide pages, and for narrow ones where that one would be too small."""

    name: str
    label: str
    wide: Figure
    narrow: Figure | None = None


def curves(runs: list[list[Json]], colour: str, collapse: int | None, name: str, title: str) -> Plot:
    """Accuracy over epochs of one method: the runs' curves over one another, the first collapse marked.

    Args:
        runs: for each run, ``{"epoch", "clean", "fgsm", "pgd", "train"}`` in the order of the epochs, which may be
            broken numbers; keys missing where not measured.
        colour: of the FGSM and PGD lines.
        collapse: epoch to mark.
        name, title: of the figure and of the method.
    """
    figure, axes = drawing.new(3.2, 2.3)
    thinner = 1.0 if len(runs) == 1 else 0.65
    for line in LINES:
        for epochs in runs:
            known = [row for row in epochs if row.get(line.key) is not None]
            axes.plot(
                [row["epoch"] for row in known],
                [row[line.key] for row in known],
                color=colour if line.coloured else GREY,
                linewidth=line.width * thinner,
                dashes=[length / line.width / 1.3 for length in line.dashes] or (None, None),
                marker="o" if len(known) == 1 else None,
                markersize=5,
            )
    times = [row["epoch"] for epochs in runs for row in epochs]
    last = math.ceil(max(times, default=1))
    if collapse is not None:
        _mark(axes, collapse, last)
    _curve_tips(axes, runs, last)
    axes.set(xlabel="epoch", ylim=(0, 1.02), xlim=(0.5 if set(times) == {1} else 0, 1.02 * last))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    in_percent(axes.yaxis, [0, 0.25, 0.5, 0.75, 1])
    return Plot(name, f"{title}: accuracy after each epoch", figure)


def lines_of(curves: Iterable[list[Json]]) -> list[Line]:
    """The lines that at least one of the curves has."""
    known = {key for epochs in curves for row in epochs for key, value in row.items() if value is not None}
    return [line for line in LINES if line.key in known]


def ladder(rows: list[tuple[str, dict[str, float], tuple[float, float] | None]], colour: str, name: str) -> Plot:
    """One line per recipe, from top to bottom: dots at its accuracies, a bar for the interval of the last.

    Args:
        rows: name, mean accuracy by what it was measured with (four of them, the judge last), and the interval of
            the last.
        colour: of the last measure's dots; the others are grey.
        name: of the figure.
    """
    height = 0.7 + 0.21 * len(rows)
    wide, narrow = (_ladder(rows, colour, (width, height)) for width in (WIDE, NARROW))
    return Plot(name, f"accuracies of {len(rows)} recipes, measured in four ways", wide, narrow)


def sweeps(lines: list[Json], name: str) -> Plot:
    """Accuracy over epsilon; each run's own epsilon is a large dot.

    Args:
        lines: of each run, ``{"label", "colour", "accuracies", "epsilon"}``, the accuracies by epsilon.
        name: of the figure.
    """
    wide, narrow = (_sweeps(lines, size) for size in ((WIDE, 3.4), (NARROW, 3.2)))
    return Plot(name, f"accuracy over epsilon of {', '.join(line['label'] for line in lines)}", wide, narrow)


def _mark(axes: Any, collapse: int, last: int) -> None:
    """A line and a note at the epoch of the collapse."""
    axes.axvline(collapse, color=GREY, linewidth=1)
    # Centred, but kept inside the panel near its edges.
    side = "left" if collapse < 0.25 * last else "right" if collapse > 0.75 * last else "center"
    axes.text(collapse, 1.03, f"collapse, epoch {collapse}", transform=axes.get_xaxis_transform(), ha=side, va="bottom")


def _curve_tips(axes: Any, runs: list[list[Json]], last: int) -> None:
    """Strips that cannot be seen, with the accuracies of an epoch as their tips."""
    every = -(-last // _TIPS)
    for epoch in range(every, last + 1, every):
        rows = [row for epochs in runs for row in epochs if row["epoch"] == epoch]
        said = [
            f"{line.title} {', '.join(percent(row[line.key], '%') for row in rows if row.get(line.key) is not None)}"
            for line in LINES
            if any(row.get(line.key) is not None for row in rows)
        ]
        if said:
            strip = axes.axvspan(epoch - every / 2, epoch + every / 2, alpha=0, clip_on=False)
            drawing.tip(strip, f"epoch {epoch}: {'; '.join(said)}")


def _ladder(rows: list[Any], colour: str, size: tuple[float, float]) -> Figure:
    figure, axes = drawing.new(*size)
    judge = list(rows[0][1])[-1]
    for y, (label, means, interval) in enumerate(rows):
        axes.hlines(y, min(means.values()), max(means.values()), color=GREY, linewidth=0.8, alpha=0.6)
        for symbol, (measure, value) in zip(LADDER_SYMBOLS.values(), means.items(), strict=True):
            judges = measure == judge
            ends = f" (95%: {percent(interval[0])} to {percent(interval[1])})" if judges and interval else ""
            if judges and interval:
                axes.hlines(y, *interval, color=colour, linewidth=1.4)
            looks = {"color": colour} if judges else {"color": GREY, "markerfacecolor": "none"}
            (dot,) = axes.plot(value, y, symbol, markersize=6.5 if judges else 5, **looks)
            drawing.tip(dot, f"{label}, {measure}: {percent(value, '%')}{ends}")
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [plain(label) for label, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    in_percent(axes.xaxis, [0, 0.25, 0.5, 0.75, 1])
    return figure


def _sweeps(lines: list[Json], size: tuple[float, float]) -> Figure:
    figure, axes = drawing.new(*size)
    for line in lines:
        axes.plot(list(line["accuracies"]), list(line["accuracies"].values()), color=line["colour"], linewidth=1.6)
        for epsilon, accuracy in line["accuracies"].items():
            large = 8 if epsilon == line["epsilon"] else 4
            (dot,) = axes.plot(epsilon, accuracy, "o", color=line["colour"], markersize=large)
            drawing.tip(dot, f"{line['label']}: {percent(accuracy, '%')} at {budget(epsilon)}")
    sizes = sorted({epsilon for line in lines for epsilon in line["accuracies"]})
    apart = 0.6 / size[0] * max(sizes)  # what a label needs
    shown = [sizes[0]]
    for epsilon in sizes[1:]:
        if epsilon - shown[-1] > apart:
            shown.append(epsilon)
    axes.set(xlabel="epsilon, pixel fraction", ylim=(-0.02, 1.02))
    axes.set_xticks(shown, [budget(epsilon) for epsilon in shown])
    in_percent(axes.yaxis, [0, 0.25, 0.5, 0.75, 1])
    return figure


def in_percent(axis: Any, ticks: list[float] | None = None) -> None:
    """Write fractions as per cent, at these ticks where they are given."""
    if ticks:
        axis.set_ticks(ticks)
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
