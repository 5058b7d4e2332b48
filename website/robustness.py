"""``python -m website.robustness``: the drawing of "Robust in little time", from the records of its ladders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from headstart.report.numbers import sampling_interval
from website.pages import ROOT
from website.pictures import LOOKS, OUT, save

MACHINES = {"epyc2": "AMD EPYC, vector instructions", "xeon2": "Intel Xeon, matrix instructions (AMX)"}
BLUE, GREY = "#1f3a5f", "#8a9099"
BASELINES = {"small": ("the book cifar10-small", "s"), "wong": ("PreActResNet-18 of Wong et al., cut", "^")}
TICKS = {15: "15 s", 60: "1 min", 300: "5 min", 1800: "30 min", 7200: "2 h"}


@dataclass(frozen=True)
class Dot:
    """A step of a ladder: means over its seeds.

    Attributes:
        seconds: of a processor, for training alone.
        robust: accuracy under PGD-20, and its interval on so many images.
    """

    budget: int
    step: str
    seconds: float
    robust: float
    interval: tuple[float, float]


def dots_of(machine: str) -> list[Dot]:
    """Every step that has a record, the ladders in order."""
    steps: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((ROOT / "benchmarks" / "results" / machine / "time-to-robustness" / "steps").glob("*.json")):
        record = json.loads(path.read_text())
        steps[record["budget"], record["step"]].append(record)
    dots = []
    for (budget, step), rows in sorted(steps.items()):
        robust = mean(row["pgd-20"] for row in rows)
        interval = sampling_interval(robust, rows[0]["images"])
        dots.append(Dot(budget, step, mean(row["processor_seconds"] for row in rows), robust, interval))
    return dots


def figure_of(machines: dict[str, str]) -> Figure:
    """Accuracy under PGD-20 by seconds of training, a panel for each machine, whose seconds do not compare."""
    figure = Figure(figsize=(3.7 * len(machines), 3.3))
    panels = figure.subplots(1, len(machines), sharey=True, squeeze=False)[0]
    for (machine, title), axes in zip(machines.items(), panels, strict=True):
        dots = dots_of(machine)
        steps = [dot for dot in dots if dot.step not in BASELINES]
        axes.plot(*_places(steps), "o", color=BLUE, markersize=4, label="a step of the ladder")
        for budget in {dot.budget for dot in steps}:
            best = max((dot for dot in steps if dot.budget == budget), key=lambda dot: dot.robust)
            axes.vlines(best.seconds, *(100 * end for end in best.interval), color=BLUE, linewidth=1)
        for name, (label, marker) in BASELINES.items():
            found = [dot for dot in dots if dot.step == name]
            axes.plot(*_places(found), marker, color=GREY, markersize=6, label=label)
            for dot in found:
                axes.vlines(dot.seconds, *(100 * end for end in dot.interval), color=GREY, linewidth=1)
        axes.set(title=title, xscale="log", xlim=(10, 12_000), ylim=(-1, 50), xlabel="processor seconds of training")
        axes.set_xticks([*TICKS], [*TICKS.values()], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy under PGD-20, %")
    panels[-1].legend(frameon=False, loc="lower right", fontsize=8)
    figure.tight_layout()
    return figure


def _places(dots: list[Dot]) -> tuple[list[float], list[float]]:
    return [dot.seconds for dot in dots], [100 * dot.robust for dot in dots]


def draw(out: Path) -> None:
    """The drawing, with its numbers in the metadata."""
    with matplotlib.rc_context(LOOKS):
        save(figure_of(MACHINES), out / "time-to-robustness.svg", numbers_of(MACHINES))


def numbers_of(machines: Iterable[str]) -> str:
    """Every dot in words."""
    return "\n".join(
        f"{machine}, {dot.budget} seconds, {dot.step}: {100 * dot.robust:.1f} % after {dot.seconds:.0f} s"
        for machine in machines
        for dot in dots_of(machine)
    )


if __name__ == "__main__":
    draw(OUT)
