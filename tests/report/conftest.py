from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest


class ParsedPage(HTMLParser):
    """A page as a browser would see it.

    Attributes:
        tags: every tag with its attributes.
        rows, intervals: of all tables, the text of each cell without and with nothing but its interval.
        figures: by name, what each says where it is pointed at, in order.
        labels: by name, the text of each figure.
        latex, css, text: of tables, of style sheets, and all other visible text.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.intervals: list[list[str]] = []
        self.figures: dict[str, list[str]] = {}
        self.labels: dict[str, list[str]] = {}
        self.latex: list[str] = []
        self.css = ""
        self.text = ""
        self._figure = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def row(self, first: str) -> list[str]:
        """The first table row with this text in its first cell."""
        return next(row for row in self.rows if row and row[0] == first)

    def interval(self, first: str) -> list[str]:
        """The intervals in that row."""
        return next(ends for row, ends in zip(self.rows, self.intervals, strict=True) if row and row[0] == first)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in ("meta", "img", "br"):
            self._open.append("interval" if found.get("class") == "interval" else tag)
        if name := found.get("data-figure"):
            self._figure = name
            self.figures[name], self.labels[name] = [], []
        elif tag == "tr":
            self.rows.append([])
            self.intervals.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.intervals[-1].append("")
        elif tag == "pre":
            self.latex.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if "svg" in self._open:
            if inside in ("title", "text") and self._figure:
                said = (self.figures if inside == "title" else self.labels)[self._figure]
                said += [data] * (data not in said)  # wide and narrow say the same
        elif inside == "style":
            self.css += data
        elif inside == "pre":
            self.latex[-1] += data
        elif inside != "script":
            self.text += data
            if "th" in self._open or "td" in self._open:
                (self.intervals if inside == "interval" else self.rows)[-1][-1] += data


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
