"""Pages from templates: everything inside, so that a page opens offline and can be mailed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from headstart.report import drawing, numbers
from headstart.report.colours import NEGATIVE, POSITIVE
from headstart.report.groups import flat
from headstart.report.plots import Plot
from headstart.report.reading import Json


def render(
    template: str,
    *,
    settings: dict[str, Json],
    measured: list[Json],
    figures: list[Plot],
    folder: Path | None,
    **values: Any,
) -> str:
    """A whole page.

    Args:
        template: of the page, by file name.
        settings: what the footer lists, by its titles; below it come the distinct environments of the records.
        measured: records behind the numbers.
        figures: of the page.
        folder: beside the page, to which they are written, as SVG and PDF; without one, nothing is.
        values: of the template's variables, with the title, headline, lede and subject (``about``) of the page.

    Raises:
        StorageError: the figures cannot be written.
    """
    environments: list[Json] = []
    for record in measured:
        environment = record.get("environment")
        if environment and environment not in environments:
            environments.append(environment)
    if folder:
        for plot in figures:
            drawing.save(plot.wide, folder / plot.name)
    footer = [*settings.items(), *(("Environment", environment) for environment in environments)]
    return _templates(folder.name if folder else "").get_template(template).render(footer=footer, **values)


def _templates(folder: str) -> Environment:
    templates = Environment(
        loader=PackageLoader("headstart.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )

    written = (numbers.percent, numbers.number, numbers.budget, numbers.setting, flat)
    templates.filters |= {write.__name__: write for write in written} | {"svg": _svg}
    templates.globals |= {"negative": NEGATIVE, "positive": POSITIVE, "folder": quote(folder)}
    return templates


def _svg(figure: Any, label: str) -> Markup:
    return Markup(drawing.svg(figure, label))  # matplotlib has escaped what it writes
