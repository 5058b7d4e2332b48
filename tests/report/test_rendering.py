"""What holds for every page: it is self-contained, and drawing it changes nothing."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import UserError
from headstart.report import demo_page, run_page

LOADING = ("src", "href", "srcset", "poster", "data", "action", "background")


@pytest.mark.parametrize("kind", ["demo", "runs"])
def test_a_page_loads_nothing_from_outside(kind: str, demo: Any, details: Any, run_of: Any, parsed: Any) -> None:
    page = demo_page(demo, details) if kind == "demo" else run_page([run_of("a"), run_of("b", "fgsm-sdi")])
    seen = parsed(page)
    loads = [value for _, attributes in seen.tags for key, value in attributes.items() if key in LOADING]
    assert all(value.startswith("data:") for value in loads)
    assert not any(tag in ("link", "iframe", "object", "base") for tag, _ in seen.tags)
    assert not any("//" in (a.get(key) or "") for _, a in seen.tags for key in ("xlink:href", "style", "clip-path"))
    assert "url(" not in seen.css
    assert "@import" not in seen.css
    policies = [a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv")]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
    assert all(seen.figures.values())
    assert len(page) < 150_000


def test_no_two_parts_of_a_page_have_one_name(demo: Any, details: Any, run_of: Any, parsed: Any) -> None:
    """Figures refer to their parts by name: of one name, the first would be taken, hidden or not."""
    for page in (demo_page(demo, details), run_page([run_of("a"), run_of("b", "fgsm-sdi")])):
        tags = parsed(page).tags
        names = [a["id"] for _, a in tags if "id" in a]
        used = {(a.get("xlink:href") or a["href"])[1:] for _, a in tags if (a.get("xlink:href") or "").startswith("#")}
        assert len(names) == len(set(names))
        assert used <= set(names)


def test_every_figure_is_written_beside_the_page_and_linked(tmp_path: Path, run_of: Any, parsed: Any) -> None:
    page = run_page([run_of("a"), run_of("b", "fgsm-sdi")], folder=tmp_path / "my figures")
    seen = parsed(page)
    links = [a["href"] for tag, a in seen.tags if tag == "a" and a["href"].endswith((".svg", ".pdf"))]
    assert links == [f"my%20figures/{name}.{kind}" for name in seen.figures for kind in ("svg", "pdf")]
    files = sorted(path.name for path in (tmp_path / "my figures").iterdir())
    assert files == sorted(link.rpartition("/")[2] for link in links)
    assert ".svg" not in run_page([run_of("a")]), "no link without files"


def test_a_page_links_to_parts_that_it_has(run_of: Any, parsed: Any) -> None:
    run = run_of("a")
    run["evaluation"]["warnings"] = ["odd [docs/evaluation.md#no-gradient]", "no section [docs/evaluation.md#none]"]
    tags = parsed(run_page([run])).tags
    links = {a["href"][1:] for tag, a in tags if tag == "a" and a["href"].startswith("#")}
    assert links == {"warnings", "warning-1", "no-gradient"}
    assert links <= {a.get("id") for _, a in tags}


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path: Path, run_of: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        run_page([run_of("a")], folder=tmp_path / "file" / "figures")


def test_pages_do_not_change_their_input_and_repeat_themselves(demo: Any, details: Any, run_of: Any) -> None:
    runs = [run_of("a"), run_of("b", "fgsm-sdi")]
    before = copy.deepcopy((demo, details, runs))
    assert demo_page(demo, details) == demo_page(demo, details)
    assert run_page(runs) == run_page(runs)
    assert (demo, details, runs) == before


def test_reports_are_made_without_torch() -> None:
    script = "import sys, headstart.report; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
