"""Warnings on a page: each once, with what the documentation says about it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import headstart
from headstart.report.cautions import EXPLAINED, cautions, explanations

GUIDE = Path(headstart.__file__).parents[2] / "docs" / "evaluation.md"


def test_the_explanations_are_those_of_the_documentation() -> None:
    text = (resources.files("headstart.report") / EXPLAINED).read_text()
    assert text in GUIDE.read_text()
    assert text.count("### ") == 21


def test_a_warning_of_several_runs_is_said_once(run_of: Any) -> None:
    first, second = run_of("a"), run_of("b")
    first["evaluation"]["warnings"] = ["one [docs/evaluation.md#no-gradient]", "two"]
    second["evaluation"]["warnings"] = ["two"]
    second["sweep"]["warnings"] = ["one [docs/evaluation.md#no-gradient]", "three [docs/evaluation.md#unknown]"]
    found = cautions([first, second])
    assert [(c.anchor, c.about, c.text, c.section) for c in found] == [
        ("warning-1", ["a", "sweep of b"], "one", "no-gradient"),
        ("warning-2", ["a", "b"], "two", ""),
        ("warning-3", ["sweep of b"], "three [docs/evaluation.md#unknown]", ""),
    ]
    assert list(explanations(found)) == ["no-gradient"]
    title, text = explanations(found)["no-gradient"]
    assert title == "No gradient"
    assert text.startswith("<p>No pixel of some images")
    assert "<code>detach</code>" in text
    assert cautions([run_of("c")]) == []
