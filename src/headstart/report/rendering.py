"""Pages from templates: everything inside, so that a page opens offline and can be mailed."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from headstart.report import numbers
from headstart.report.colours import NEGATIVE, POSITIVE
from headstart.report.groups import PASSES, flat
from headstart.report.reading import Json


def render(template: str, *, settings: dict[str, Json], measured: list[Json], **values: Any) -> str:
    """A whole page.

    Args:
        template: of the page, by file name.
        settings: what the footer lists, by its titles; below it come the distinct environments of the records.
        measured: records behind the numbers.
        values: of the template's variables, with the title, headline, lede and subject (``about``) of the page.
    """
    environments: list[Json] = []
    for record in measured:
        environment = record.get("environment")
        if environment and environment not in environments:
            environments.append(environment)
    footer = [*settings.items(), *(("Environment", environment) for environment in environments)]
    return _templates().get_template(template).render(footer=footer, **values)


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("headstart.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    written = (numbers.percent, numbers.points, numbers.number, numbers.passes, numbers.budget, numbers.setting, flat)
    templates.filters |= {write.__name__: write for write in written}
    templates.globals |= {
        "PASSES": PASSES,
        "MISSING": numbers.MISSING,
        "negative": NEGATIVE,
        "positive": POSITIVE,
        "plotlyjs": get_plotlyjs,
    }
    return templates
