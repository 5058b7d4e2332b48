from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest


class ParsedPage(HTMLParser):
    """A page as a browser would see it: tags, table rows as text, figures as data, and all visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.figures: dict[str, Any] = {}
        self.css = ""
        self.text = ""
        self._inside: str | None = None
        self._figure: str | None = None
        self.feed(page)
        self.close()

    def row(self, first: str) -> list[str]:
        """The first table row with this text in its first cell."""
        return next(row for row in self.rows if row and row[0] == first)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside, self._figure = tag, dict(attributes).get("data-for")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self._inside = "cell"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "th", "td"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.css += data
        elif self._inside == "script":
            if self._figure:
                self.figures[self._figure] = json.loads(data)
        else:
            self.text += data
            if self._inside == "cell":
                self.rows[-1][-1] += data


def epochs(*pgd: float) -> list[dict[str, float]]:
    return [{"epoch": i, "clean": 0.9, "fgsm": 0.5 + i / 100, "pgd": value} for i, value in enumerate(pgd, start=1)]


@pytest.fixture
def demo() -> dict[str, Any]:
    return {
        "data": "digits",
        "epsilon": 0.3,
        "n": 500,
        "seed": 7,
        "results": [
            {"method": "fgsm", "seconds": 7.5, "clean": 0.969, "fgsm": 0.503, "pgd": 0.011, "autoattack": 0.0},
            {"method": "fgsm-rs", "seconds": 8.1, "clean": 0.977, "fgsm": 0.643, "pgd": 0.18, "autoattack": 0.036},
            {"method": "fgsm-sdi", "seconds": 15.4, "clean": 0.976, "fgsm": 0.765, "pgd": 0.444, "autoattack": 0.11},
            {"method": "pgd-at", "seconds": 46.2, "clean": 0.963, "fgsm": 0.671, "pgd": 0.438, "autoattack": 0.156},
        ],
        "environment": {"device": "cpu of the test", "torch": "2.13.0"},
    }


@pytest.fixture
def details() -> dict[str, Any]:
    methods = ("fgsm", "fgsm-rs", "fgsm-sdi", "pgd-at")
    image, delta = [[0.0, 1.0], [0.5, 0.25]], [[0.3, -0.3], [0.0, 0.15]]

    def sample(method: str) -> dict[str, Any]:
        initial = None if method == "fgsm" else [delta, delta]
        return {"initial": initial, "final": [delta, delta], "adversarial": [image, image], "predictions": [0, 1]}

    return {
        "curves": {method: epochs(0.2, 0.3, 0.01 if method == "fgsm" else 0.4) for method in methods},
        "collapse": {"fgsm": {"epoch": 3}, "fgsm-rs": None, "fgsm-sdi": None, "pgd-at": None},
        "samples": {
            "images": [image, image],
            "labels": [0, 0],
            "classes": ["cat", "dog"],
            "per_method": {method: sample(method) for method in methods},
        },
        "passes": {
            "fgsm": {"forwards": 2.0, "input_gradients": 1.0, "backwards": 1.0},
            "fgsm-sdi": {"forwards": 3.4, "input_gradients": 2.4, "backwards": 1.0},
        },
    }


def make_run(name: str, method: str = "fgsm-rs", seed: int = 0, robust: float | None = 0.44, **changes: Any) -> Any:
    evaluation = {
        "suite": "standard",
        "n": 1000,
        "epsilon": 8 / 255,
        "clean": 0.83,
        "robust": robust,
        "attacks": {"apgd-ce": 0.5, "square": robust},
        "warnings": [],
        "seconds": 60.0,
        "environment": {"device": "cpu of the test"},
    }
    rows = [
        {
            "kind": "epoch",
            "epoch": row["epoch"],
            "train_accuracy": 0.6,
            "val": {"n": 500, "clean": row["clean"], "fgsm": row["fgsm"], "pgd": row["pgd"]},
            "collapsed": False,
        }
        for row in epochs(0.3, 0.4)
    ]
    run = {
        "name": name,
        "config": {"method": method, "seed": seed, "epsilon": 8 / 255},
        "metrics": rows,
        "evaluation": None if robust is None else evaluation,
        "bound": None,
        "sweep": {
            "suite": "pgd",
            "n": 1000,
            "epsilon": 8 / 255,
            "epsilons": [0.0, 4 / 255, 8 / 255, 32 / 255],
            "accuracies": [0.83, 0.66, 0.48, 0.01],
            "warnings": [],
        },
        "cost": {
            "seconds": 50.0,
            "images_per_second": 800.0,
            "forwards": 680,
            "input_gradients": 480,
            "backwards": 200,
            "updates": 200,
            "peak_memory_bytes": 3 * 2**20,
        },
    }
    return {**run, **changes}


@pytest.fixture
def run_of() -> Any:
    return make_run


@pytest.fixture
def parsed() -> Any:
    return ParsedPage
