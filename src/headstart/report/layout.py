"""The page around its contents: document, header, sections, panels and footer."""

from __future__ import annotations

from plotly.offline import get_plotlyjs

from headstart.report.plots import DRAW
from headstart.report.records import Record
from headstart.report.style import CSS
from headstart.report.tables import definitions, escape, swatch

# The browser itself refuses every request the page might make.
_NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def header(about: str, title: str, lede: str) -> str:
    """What the page is about, and its one or two sentences of news, all as plain text."""
    return (
        f'<header><p class="eyebrow">{escape(about)}</p><h1>{escape(title)}</h1>'
        f'<p class="lede">{escape(lede)}</p></header>'
    )


def footer(title: str, settings: Record, measured: list[Record]) -> str:
    """Settings, and the distinct environments behind the numbers."""
    parts = [(title, settings)]
    environments: list[Record] = []
    for record in measured:
        environment = record.get("environment")
        if environment and environment not in environments:
            environments.append(environment)
    parts += [("Environment", environment) for environment in environments]
    items = (f"<h3>{escape(title)}</h3>{definitions(values)}" for title, values in parts if values)
    return f"<footer>{''.join(items)}</footer>"


def section(title: str, read: str, body: str) -> str:
    """``read`` says how to read the body; both are HTML already."""
    reading = f'<p class="read">{read}</p>' if read else ""
    return f"<section><h2>{title}</h2>{reading}{body}</section>"


def note(text: str) -> str:
    """A remark under a table; HTML already."""
    return f'<p class="note">{text}</p>'


def document(title: str, sections: list[str]) -> str:
    """The whole page, with styles, plotly and pictures inside."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_NO_REQUESTS}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body><main>
{"".join(sections)}
</main>
<script>{get_plotlyjs()}</script>
<script>{DRAW}</script>
</body>
</html>
"""


def panel(title: str, colour: str, figure: str) -> str:
    """A small titled figure, one of several side by side."""
    return f'<div class="card panel"><h3>{swatch(colour)}{escape(title)}</h3>{figure}</div>'
