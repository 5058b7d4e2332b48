"""Stages the pages of the site in one folder and lets Zensical render them.

Pages under ``docs`` become pages at the top; every other file that a page links to keeps its path in the repository.
So the same Markdown reads well in a checkout, where links lead from file to file, and as a site.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from website.mathml import with_mathml
from website.pages import demo, every_method, every_name

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
DEMO = ROOT / "docs" / "demo.html"  # not a file: made while the site is built
FILLED: dict[str, Callable[[], str]] = {
    "<!-- every name: filled in by the site -->": every_name,
    "<!-- every method: filled in by the site -->": every_method,
}
CODE = re.compile(r"^[ ]*```.*?^[ ]*```$|`[^`\n]+`", re.M | re.S)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?\)")


def build(site: Path) -> None:
    """The whole site; a link without a target, or a page that cannot be rendered, ends it with an error.

    Raises:
        RuntimeError: Zensical refused; with what it said.
    """
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        stage(source / "pages")
        (source / "mkdocs.yml").write_text(yaml.safe_dump(configuration(source / "pages"), sort_keys=False))
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(source / "mkdocs.yml")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"zensical ended with {done.returncode}:\n{ANSI.sub('', done.stdout + done.stderr)}")
        shutil.move(source / "site", site)


def stage(pages: Path) -> None:
    """Everything the site is made of, in ``pages``."""
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.md"))
    shutil.copytree(ROOT / "website" / "assets", pages / "assets")
    (pages / placed(DEMO)).write_text(demo())
    waiting = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ROOT_PAGES)]
    staged: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in staged:
            continue
        staged.add(path)
        place = pages / placed(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text, linked = relinked(path)
            for mark, make in FILLED.items():
                text = text.replace(mark, make()) if mark in text else text
            place.write_text(with_mathml(text, CODE))
            waiting += linked
        elif not place.exists():
            shutil.copy(path, place)


def placed(path: Path) -> Path:
    """Where a file of the repository is among the pages."""
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "docs":
        return Path(*relative.parts[1:])
    return Path("overview.md") if relative == Path("README.md") else relative


def relinked(path: Path) -> tuple[str, list[Path]]:
    """A page whose links lead to where the files are among the pages, and the files of the repository it links to."""
    linked: list[Path] = []

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(path.parent / link[2]))
        if target.is_file():
            linked.append(target)
        elif target != DEMO:
            raise FileNotFoundError(f"{path.relative_to(ROOT)} links to {link[2]}, which is no file")
        return f"{link[1]}{os.path.relpath(placed(target), placed(path).parent)}{link[3] or ''})"

    text = path.read_text()
    parts, start = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(moved, text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, LINK.sub(moved, text[start:])]), linked


def configuration(pages: Path) -> dict[str, Any]:
    """mkdocs.yml of one build: with paths, and without pages that are not there."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "website" / "mkdocs.yml").read_text())
    settings |= {"docs_dir": "pages", "site_dir": "site"}
    settings["theme"]["custom_dir"] = str(ROOT / "website" / "theme")
    for plugin in settings["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    settings["nav"] = [entry for entry in (present(entry, pages) for entry in settings["nav"]) if entry]
    return settings


def present(entry: dict[str, Any], pages: Path) -> dict[str, Any]:
    """An entry of the navigation, or the part of a section whose pages exist; empty where there is none."""
    ((title, value),) = entry.items()
    if isinstance(value, str):
        return entry if (pages / value).exists() else {}
    inside = [kept for kept in (present(item, pages) for item in value) if kept]
    return {title: inside} if inside else {}
