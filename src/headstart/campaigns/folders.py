"""The folders of bench and demo: the name of every file in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.runs.folder import RunFolder


@dataclass(frozen=True)
class BenchFolder:
    """Where the files of a bench are.

    Attributes:
        path: the folder.
    """

    path: Path

    def record(self, stem: str) -> Path:
        """What was measured of one run."""
        return self.path / "records" / f"{stem}.json"

    def run(self, stem: str) -> Path:
        """The folder of one run."""
        return self.path / "runs" / stem

    def curve(self, stem: str) -> Path:
        """What was measured of the checkpoints of one run."""
        return self.path / "time" / f"{stem}.json"

    @property
    def table(self) -> Path:
        """The table as Markdown."""
        return self.path / "table.md"

    @property
    def time(self) -> Path:
        """The table of robustness by cost as Markdown."""
        return self.path / "time.md"

    @property
    def summary(self) -> Path:
        """The figures of every seed."""
        return self.path / "table.json"

    @property
    def page(self) -> Path:
        """The table with pictures."""
        return self.path / "table.html"

    @property
    def figures(self) -> Path:
        """These as SVG and PDF."""
        return self.path / "table-figures"


@dataclass(frozen=True)
class DemoFolder:
    """Where the files of a demo are.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def demo(self) -> Path:
        """Accuracies and seconds of every method."""
        return self.path / "demo.json"

    @property
    def details(self) -> Path:
        """The page's further input by method: curves, collapses, sample images, passes and evaluations."""
        return self.path / "details.json"

    @property
    def page(self) -> Path:
        """The whole story."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """Its figures as SVG and PDF."""
        return self.path / "report-figures"

    def run(self, method: str) -> RunFolder:
        """The run of one method."""
        return RunFolder(self.path / "runs" / method)


def pgd_record(run: RunFolder) -> Path:
    """The demo's second evaluation of a run, beside the one by AutoAttack."""
    return run.path / "pgd.json"
