"""Figures by matplotlib in one style: as SVG in a page, light or dark, and as SVG and PDF files for a paper."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # black in a file; in a page it becomes the text's colour, which only the page knows
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def new(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes, (rows, columns) of them squeezed; options go to ``Figure.subplots``."""
    with extra("report"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(rows, columns, **options)


def legend(axes: Any, place: str, **options: Any) -> None:
    """A legend in the ink of the axes, without a frame: outside of ``new`` the style is matplotlib's own."""
    axes.legend(loc=place, frameon=False, labelcolor=axes.xaxis.label.get_color(), **options)


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element that takes its text colour and its width from the page."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    element = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r' (width|height)="[^"]*"', "", element, count=2)  # the view box keeps the shape


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` with ``.svg`` and ``.pdf`` for its suffix, on white; returns both."""
    from matplotlib import rc_context

    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "pdf")]
    with rc_context(_STYLE):
        for file in files:
            stamp = "Date" if file.suffix == ".svg" else "CreationDate"
            figure.savefig(file, facecolor="white", metadata={stamp: None})
    return files
