"""The warnings of evaluations and sweeps, each once, and what the documentation says about them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources

from headstart.errors import extra
from headstart.report.reading import Json

with extra("report"):
    from markdown_it import MarkdownIt

EXPLAINED = "warnings.md"
"""What each warning means, as the documentation has it: a section of docs/evaluation.md."""


@dataclass(frozen=True)
class Caution:
    """A warning: its place on the page, whom it is about, its words, and the section that explains it, if any."""

    anchor: str
    about: list[str]
    text: str
    section: str


def cautions(runs: list[Json]) -> list[Caution]:
    """The warnings of all runs in order of first appearance."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for record, part in ((run["evaluation"], ""), (run["bound"], "upper bound of "), (run["sweep"], "sweep of ")):
            for warning in (record or {}).get("warnings", []):
                about.setdefault(warning, []).append(part + run["name"])
    return [_caution(i, text, names) for i, (text, names) in enumerate(about.items(), 1)]


def explanations(found: list[Caution]) -> dict[str, tuple[str, str]]:
    """By section that they name: its title and its text as HTML."""
    return {name: _sections()[name] for name in dict.fromkeys(c.section for c in found) if name}


def _caution(i: int, warning: str, about: list[str]) -> Caution:
    text, _, section = warning.removesuffix("]").rpartition(" [docs/evaluation.md#")
    known = section in _sections()
    return Caution(f"warning-{i}", about, text if known else warning, section if known else "")


@functools.cache
def _sections() -> dict[str, tuple[str, str]]:
    """By anchor, as the documentation has it."""
    text = (resources.files("headstart.report") / EXPLAINED).read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        body = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", body)  # what it links to is not on the page
        found[re.sub(r"[^\w]+", "-", title.lower())] = title, MarkdownIt().render(body)
    return found
