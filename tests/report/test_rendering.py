"""What holds for every page: it is self-contained, and drawing it changes nothing."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest

from headstart.report import demo_page, run_page

LOADING = ("src", "href", "srcset", "poster", "data", "action", "background")


@pytest.mark.parametrize("kind", ["demo", "runs"])
def test_a_page_loads_nothing_from_outside(kind: str, demo: Any, details: Any, run_of: Any, parsed: Any) -> None:
    page = demo_page(demo, details) if kind == "demo" else run_page([run_of("a"), run_of("b", "fgsm-sdi")])
    seen = parsed(page)
    loads = [value for _, attributes in seen.tags for key, value in attributes.items() if key in LOADING]
    assert all(value.startswith("data:") for value in loads)
    assert not any(tag in ("link", "iframe", "object", "base") for tag, _ in seen.tags)
    assert "url(" not in seen.css
    assert "@import" not in seen.css
    policies = [a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv")]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
    assert page.count("plotly.js v") == 1  # the banner of the one copy that all figures share


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
