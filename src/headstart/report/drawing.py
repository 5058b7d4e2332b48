"""Figures by matplotlib in one style: as SVG in a page, light or dark, and as SVG and PDF files for a paper."""

from __future__ import annotations

import hashlib
import io
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import extra

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_INK = "#010203"  # black in a file; in a page it becomes the text's colour, which only the page knows
_TIP = "tip: "
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "headstart",  # the same figure is the same file
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


def tip(artist: Artist, text: str) -> None:
    """What an SVG says where somebody points at the artist."""
    artist.set_gid(_TIP + text)


def svg(figure: Figure, label: str = "") -> str:
    """The figure as an ``<svg>`` element that takes its text colour, font and width from the page.

    Args:
        label: what a screen reader says in its place.
    """
    text = _drawn(figure, transparent=True).replace(_INK, "currentColor")
    mark = f"f{hashlib.sha256(text.encode()).hexdigest()[:6]}"  # names of parts must differ from those of other figures
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', _rounded, text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)  # the view box keeps the shape
    named = f' role="img" aria-label="{escape(label)}"' if label else ""
    return text.replace("<svg", f'<svg{named} font-family="inherit" fill="currentColor"', 1)


def _rounded(attribute: re.Match[str]) -> str:
    """To tenths of a point, and without the turn by nothing that every text has."""
    if attribute[0].startswith(' transform="rotate(-0 '):
        return ""
    return re.sub(r"(\.\d)\d+", r"\1", attribute[0])


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` with ``.svg`` and ``.pdf`` for its suffix, on white; returns both.

    Raises:
        StorageError: they cannot be written.
    """
    from matplotlib import rc_context

    from headstart.runs.files import save_bytes, write_text  # here, since drawing must not take loading torch

    vector, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("svg", "pdf"))
    write_text(vector, _drawn(figure, facecolor="white"))
    content = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(content, format="pdf", facecolor="white", metadata={"CreationDate": None})
    save_bytes(pdf, content.getvalue())
    return [vector, pdf]


def _drawn(figure: Figure, **options: Any) -> str:
    """An ``<svg>`` element without rules for what is around it, tips as titles."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None}, **options)
    text = re.sub(r' id="((figure|axes|patch|line2d|[xy]tick|text|legend)_|matplotlib)[^"]*"', "", out.getvalue())
    tips = rf"""<g id=(?P<quote>["']){_TIP}(?P<text>.*?)(?P=quote)>"""
    text = re.sub(tips, r'<g pointer-events="all"><title>\g<text></title>', text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :].replace("<svg", '<svg stroke-linejoin="round"', 1)
