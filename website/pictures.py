"""``python -m website.pictures DEMO``: the drawings of "FGSM-SDI explained", from the folder of a finished demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import Tensor

from headstart.campaigns.folders import DemoFolder
from headstart.campaigns.perturbations import end_of_training
from headstart.core import Target
from headstart.parts.generator import GeneratorInit
from headstart.recipes.reader import load_recipe
from headstart.runs.folder import RunFolder

OUT = Path(__file__).parents[1] / "docs" / "pictures"
SHOWN = 6
ROWS = ("image", "sign of its\ngradient", "generator's\nstart", "perturbation\nafter the step", "what is\ntrained on")
LOOKS: Any = {"svg.hashsalt": "headstart", "font.size": 9, "svg.fonttype": "path"}


def draw(folder: DemoFolder, out: Path) -> None:
    """Both drawings, the same to the byte for the same demo."""
    with matplotlib.rc_context(LOOKS):
        save(steps_of(folder.run("fgsm-sdi")), out / "sdi-steps.svg")
        save(curves_of(json.loads(folder.details.read_text())["curves"]), out / "demo-curves.svg")


def save(figure: Figure, path: Path, description: str | None = None) -> None:
    """Write an SVG, and into its metadata what it shows."""
    path.parent.mkdir(exist_ok=True)
    metadata = {"Date": None, "Description": description}
    figure.savefig(path, metadata=metadata, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)


def steps_of(run: RunFolder) -> Figure:
    """A column per test image, a row per stage of one update at the end of training."""
    epsilon, stages = stages_of(run)
    figure, axes = pyplot.subplots(len(ROWS), SHOWN, figsize=(6.4, 5.6), squeeze=False)
    for name, images, row in zip(ROWS, stages, axes, strict=True):
        perturbed = name not in (ROWS[0], ROWS[-1])
        limit = 1.0 if name == ROWS[1] else epsilon
        looks: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if perturbed else {"cmap": "gray"}
        for image, axis in zip(images, row, strict=True):
            axis.imshow(image[0].numpy(), **(looks if perturbed else looks | {"vmin": 0, "vmax": 1}))
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def stages_of(run: RunFolder) -> tuple[float, list[Tensor]]:
    """Epsilon, and image, gradient's sign, start, perturbation and training image, each (SHOWN, C, H, W)."""
    method, network, step = end_of_training(load_recipe(str(run.config)), run)
    assert isinstance(method.init, GeneratorInit)
    target = Target(network)
    sign = method.init.gradient_sign(target, step)
    method.perturb(target, step)
    assert step.delta0 is not None
    assert step.delta is not None
    stages = (step.x, sign, step.delta0, step.delta, step.x + step.delta)
    return step.threat.epsilon, [stage[:SHOWN].detach() for stage in stages]


def curves_of(curves: dict[str, list[dict[str, float]]]) -> Figure:
    """Held-out accuracy by epoch under FGSM and PGD, a panel per method."""
    columns = -(-len(curves) // 2)
    figure, axes = pyplot.subplots(2, columns, figsize=(3.2 * columns, 4.2), sharex=True, sharey=True)
    for spare in axes.flat[len(curves) :]:
        figure.delaxes(spare)
    for (method, rows), axis in zip(curves.items(), axes.flat, strict=False):
        epochs = [row["epoch"] for row in rows]
        axis.plot(epochs, [100 * row["fgsm"] for row in rows], "--", color="#d1495b", label="FGSM")
        axis.plot(epochs, [100 * row["pgd"] for row in rows], "-", color="#1f3a5f", label="PGD-10")
        axis.set_title(method, fontsize=9)
        axis.set(ylim=(0, 100), xlabel="epoch", ylabel="accuracy, %")
        axis.label_outer()
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(DemoFolder(Path(sys.argv[1])), OUT)
