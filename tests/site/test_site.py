"""The documentation site: built once, then read as a browser would."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

import headstart
from headstart.methods.registry import methods
from tests.site.reading import Page

pytest.importorskip("zensical", reason="what renders the site needs Python 3.11")

from website import build
from website.mathml import with_mathml

ALIEN = re.compile(r"^(?:[a-z][\w+.-]*:)?//")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "site"
    build.build(out)
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def own(pages: dict[Path, Page]) -> dict[Path, Page]:
    """Those of the site itself; the demo's page is a guest in a frame."""
    return {path: page for path, page in pages.items() if path.name != "demo.html"}


# -- links and requests ----------------------------------------------------------------------------------------------


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    lost = []
    assert sum(len(page.links) for page in pages.values()) > 500
    for path, page in pages.items():
        for address in [*page.links, *page.loaded]:
            if re.match(r"[a-z]+:", address):
                continue
            # Of 404.html, which any address may show, links begin at the root.
            name, _, anchor = unquote(address).partition("#")
            folder = site if name.startswith("/") else path.parent
            target = Path(os.path.normpath(folder / name.lstrip("/"))) if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                lost.append(f"{path.relative_to(site)}: {address}")
    assert lost == []


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert {
        path.name: found for path, page in pages.items() if (found := [a for a in page.loaded if ALIEN.match(a)])
    } == {}
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", sheet.read_text()) == [], sheet.name


def test_the_browser_refuses_requests_to_elsewhere(pages: dict[Path, Page]) -> None:
    """What a script might ask for is stopped by the page's policy, which names no other machine."""
    for path, page in pages.items():
        policies = [a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
        assert len(policies) == 1, path
        policy = policies[0]["content"] or ""
        assert policy.startswith("default-src ")
        assert "http" not in policy
        assert "*" not in policy


def test_pages_are_for_the_keyboard_and_for_narrow_screens(pages: dict[Path, Page]) -> None:
    for path, page in own(pages).items():
        assert ("html", "en") in [(tag, a.get("lang")) for tag, a in page.tags], path
        assert any(tag == "a" and a.get("class") == "md-skip" for tag, a in page.tags), path
        assert any(a.get("name") == "viewport" and "width=device-width" in (a["content"] or "") for _, a in page.tags)
        schemes = {a.get("data-md-color-scheme") for tag, a in page.tags if tag == "input"}
        assert {"default", "slate"} <= schemes, path
        pictures = [a for tag, a in page.tags if tag == "img"]
        assert all(a.get("alt") for a in pictures), path


# -- content ---------------------------------------------------------------------------------------------------------


def test_every_page_of_the_documents_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    navigation = {link.removeprefix("./") for link in pages[site / "index.html"].links}
    documents = {f"{path.stem}.html" for path in (build.ROOT / "docs").glob("*.md")} - {"index.html"}
    assert documents | {"overview.html", "CHANGELOG.html", "CONTRIBUTING.html"} <= navigation


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, Page]) -> None:
    text = " ".join(pages[site / "api.html"].text.split())
    names = {f"headstart.{name}" for name in headstart.__all__}
    assert len(names) > 15
    assert {name for name in names if not re.search(rf"{re.escape(name)}\b", text)} == set()
    assert "a network from images (B, C, H, W) in [0, 1] to logits" in text, "docstrings are rendered"


def test_the_method_table_has_every_method(site: Path) -> None:
    table = (site / "method-table.html").read_text()
    rows = re.findall(r"<tr>\s*<td><code>([\w-]+)</code></td>(.*?)</tr>", table, re.S)
    assert [name for name, _ in rows] == [*methods()]
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for name, row in rows}
    assert cells["pgd-at"][:3] == ["29.7", "45.2", "22.0"], "as in docs/comparison.md"
    assert cells["awp"][:3] == ["", "", ""], "not measured under this name"
    assert methods()["fgsm-mep"].source in cells["fgsm-mep"][-1]


def test_the_demos_page_is_in_a_frame(site: Path, pages: dict[Path, Page]) -> None:
    assert "demo.html" in pages[site / "index.html"].loaded
    assert "AutoAttack" in pages[site / "demo.html"].text


def test_equations_have_become_mathml(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "fgsm-sdi.html"]
    assert len([tag for tag, _ in page.tags if tag == "math"]) > 20
    assert "$" not in page.text
    assert "\\" not in page.text


def test_code_keeps_its_dollars() -> None:
    text = "`$HEADSTART_DATA/a` and `$X`, $x*y_1$\n\n```sh\necho $A $B\n```\n\n$$\na_1\n$$\n"
    done = with_mathml(text, build.CODE)
    assert "`$HEADSTART_DATA/a` and `$X`" in done
    assert "```sh\necho $A $B\n```" in done
    assert done.count("<math") == 2
    assert "$x" not in done


def test_a_link_to_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("[there](../CHANGELOG.md#unreleased), `[code](no.md)`, [gone](gone.md)\n")
    with pytest.raises(FileNotFoundError, match=r"docs/page.md links to \.\./CHANGELOG.md"):
        build.relinked(page)
    (tmp_path / "CHANGELOG.md").touch()
    (page.parent / "gone.md").touch()
    text, linked = build.relinked(page)
    assert text == "[there](CHANGELOG.md#unreleased), `[code](no.md)`, [gone](gone.md)\n"
    assert linked == [tmp_path / "CHANGELOG.md", page.parent / "gone.md"]


# -- tables, in a browser --------------------------------------------------------------------------------------------

TABLE = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in zip("abcdefgh", (
    "9.7 ± 0.4", "10.1 ± 2", "", "1,021", "\N{MINUS SIGN}3", "0.0", "about 8,900", "20"), strict=True))  # fmt: skip
HARNESS = """<!doctype html><meta charset="utf-8"><article><h2 id="here">Here</h2>
<table><thead><tr><th>name</th><th>value</th></tr></thead><tbody>{table}</tbody></table></article>
<script>{script}</script>
<script>
const seen = [], note = () => seen.push([...document.querySelectorAll("tbody tr")].filter((r) => !r.hidden)
  .map((r) => r.cells[0].textContent).join(""));
const head = document.querySelectorAll("th button")[1];
head.click(); note(); seen.push(document.querySelectorAll("th")[1].getAttribute("aria-sort"));
head.click(); note();
const field = document.querySelector("input");
field.value = "1 B"; field.dispatchEvent(new Event("input")); note();
seen.push(document.querySelector("output").textContent);
const told = (text) => {{ seen.push(text); document.title = JSON.stringify(seen); }};
URL.createObjectURL = (blob) => {{ blob.text().then(told); return "#"; }};
URL.revokeObjectURL = () => {{}};
document.querySelector(".table-tools button").click();
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no browser on this machine")
def test_tables_sort_filter_and_are_taken_away(tmp_path: Path) -> None:
    page = tmp_path / "table.html"
    page.write_text(HARNESS.format(table=TABLE, script=(build.ROOT / "website/assets/tables.js").read_text()))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    title = re.search(r"<title>(.*)</title>", dom)
    assert title is not None
    rising, order, falling, filtered, count, csv = json.loads(html.unescape(title[1]))
    assert (rising, order) == ("efabhdgc", "ascending"), "by number, what is empty last"
    assert falling == "gdhbafec"
    assert (filtered, count) == ("b", "1 of 8 rows")
    assert csv == "name,value\r\nb,10.1 ± 2\r\n"
