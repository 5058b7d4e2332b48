"""What a browser would load and where links lead, read from the HTML of a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


@dataclass
class Page(HTMLParser):
    """A parsed page.

    Attributes:
        loaded: addresses of scripts, pictures, frames and style sheets.
        links: addresses that a click leads to.
        ids: anchors.
        tags: every tag with its attributes.
        text: what is read, without tags.
    """

    path: Path
    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids |= {value for name in ("id", "name") if (value := values.get(name))}
        if (address := values.get(LOADED.get(tag, ""))) is not None:
            self.loaded.append(address)
        if tag == "a" and (address := values.get("href")) is not None:
            self.links.append(address)

    def handle_data(self, data: str) -> None:
        self.text += data
