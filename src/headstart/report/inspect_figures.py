"""The figures of an inspection. Each draws one run on one axes, at a scale that all runs share, or all runs on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.errors import extra
from headstart.report import drawing, linearity
from headstart.report import inspect_tiles as tiles
from headstart.report.colours import colour
from headstart.report.reading import Json

START_IMAGES = 4  # images whose perturbations are shown


@dataclass(frozen=True)
class Panel:
    """A figure with one axes for each run.

    Attributes:
        name: of its files.
        size: of one axes, in inches, by the inspection.
        draw: on the axes, one run of the inspection.
        shows: whether there is something to draw of a run.
        projection: of the axes.
    """

    name: str
    size: Callable[[Json], tuple[float, float]]
    draw: Callable[[Any, Json, Json], None]
    shows: Callable[[Json], bool] = lambda run: True
    projection: str | None = None


def surface(axes: Any, run: Json, whole: Json) -> None:
    """Mean loss over the plane, at one height for all runs; the colour is the share of images still right."""
    found = run["surface"]
    along, across = np.meshgrid(found["along"], found["across"])
    top = max(np.max(other["surface"]["mean"]) for other in whole["runs"])
    colours = colormaps()["viridis"](np.array(found["right"]))
    axes.plot_surface(
        *(along, across, np.array(found["mean"])), facecolors=colours, shade=False,
        rstride=1, cstride=1, linewidth=0.3, edgecolor="#ffffff70",
    )  # fmt: skip
    axes.set(xlabel="worst", ylabel="random", zlim=(0, 1.02 * top), xticks=[0, 0.5, 1], yticks=[-1, 0, 1])
    axes.text2D(0.05, 0.84, "loss", transform=axes.transAxes, color=axes.xaxis.label.get_color())
    axes.tick_params(pad=-2)
    axes.view_init(elev=22, azim=-122)
    axes.set_box_aspect(None, zoom=0.95)  # room for the labels
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_alpha(0)


def section(axes: Any, run: Json, whole: Json) -> None:
    """Loss along the worst perturbation, what the gradient promised, and the loss along the single step."""
    found, colour = run["surface"], colour_of(run, whole)
    for line in found["lines"]:
        axes.plot(found["along"], line, color=colour, alpha=0.28, lw=0.7)
    for key, style, label in (("line", "-", "worst"), ("step", "-.", "FGSM step"), ("predicted", ":", "linear")):
        axes.plot(found["along"], found[key], style, color=colour, lw=2.2, label=label)
    top = max(np.max(other["surface"][key]) for other in whole["runs"] for key in ("line", "lines"))
    axes.set(xlabel="share of the perturbation", ylabel="loss", xlim=(0, 1), ylim=(0, 1.03 * top))
    drawing.legend(axes, "upper left")


def margins(axes: Any, run: Json, whole: Json) -> None:
    """Histograms of the logit margins, clean and attacked; below zero the model is wrong."""
    every = [value for other in whole["runs"] for kind in other["margins"].values() for value in kind]
    bins = np.linspace(min(*every, 0.0), max(*every, 0.0) + 1e-9, 31).tolist()
    axes.hist(run["margins"]["clean"], bins, color="#8a9099", alpha=0.55, label="clean")
    axes.hist(run["margins"]["attacked"], bins, color=colour_of(run, whole), alpha=0.75, label="attacked")
    axes.axvline(0, color="#8a9099", lw=1)
    axes.set(xlabel="logit margin (wrong below 0)", ylabel="images")
    drawing.legend(axes, "upper right")


def confusion(axes: Any, run: Json, whole: Json) -> None:
    """Where the images of each class go under attack, as shares of the class."""
    counts = np.array(run["confusion"], dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    few, names = len(counts) <= 12, [str(name)[:9] for name in whole["classes"]]
    axes.set_xticks(
        range(len(counts)) if few else [], names if few else [], rotation=90 if max(map(len, names)) > 2 else 0
    )
    axes.set_yticks(range(len(counts)) if few else [], names if few else [])
    axes.set(xlabel="attacked prediction", ylabel="class")
    axes.grid(False)


def attention(axes: Any, run: Json, whole: Json) -> None:
    """Grad-CAM over each image and over its worst example, each with what the network then says."""
    seen, said = run["pictures"]["attention"], run["attention"]
    clean = [tiles.heated(*pair) for pair in zip(whole["pictures"], seen["clean"], strict=True)]
    attacked = [tiles.heated(*pair) for pair in zip(seen["images"], seen["attacked"], strict=True)]
    plain = [tiles.image(values) for values in whole["pictures"]]
    _show(axes, [plain, clean, attacked], ["image", "clean", "attacked"])
    height, width = clean[0].shape[:2]
    names = [str(name)[:6] for name in whole["classes"]]
    words = [f"{names[a]}\n→ {names[b]}" for a, b in zip(said["clean"], said["attacked"], strict=True)]
    axes.set_xticks(tiles.centres(len(words), width, height), words, fontsize=7)


def starts(axes: Any, run: Json, whole: Json) -> None:
    """The first images, and below them start, step and final perturbation, epoch by epoch."""
    _show(axes, *_start_rows(run, whole))


def _start_rows(run: Json, whole: Json) -> tuple[list[list[Any]], list[str]]:
    """The pictures and what each row shows; a method that starts from zero has no row for it."""
    shown = slice(0, START_IMAGES)
    rows: list[list[Any]] = [[tiles.image(values) for values in whole["pictures"][shown]]]
    labels = ["image"]
    for at, arrays in zip(run["starts"]["epochs"], run["pictures"]["starts"], strict=True):
        scale = at["epsilon"] if whole["norm"] == "linf" else max(float(abs(arrays["final"]).max()), 1e-9)
        for key, label in (("initial", "start"), ("step", "step"), ("final", "final")):
            if arrays[key] is not None:
                factor = 2 if key == "step" else 1  # it may cross the ball
                rows.append([tiles.perturbation(values, factor * scale) for values in arrays[key][shown]])
                labels.append(f"epoch {at['epoch']}\n{label}")
    return rows, labels


def _show(axes: Any, rows: list[list[Any]], labels: list[str]) -> None:
    height, width = rows[0][0].shape[:2]
    axes.imshow(tiles.tiled(rows), interpolation="nearest")
    axes.set_yticks(tiles.centres(len(rows), height, width), labels, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def standing(axes: Any, whole: Json) -> None:
    """The share of the images that stands at each epsilon, one falling line per run."""
    for run in whole["runs"]:
        falls = sorted(value for value in run["falls"] if value is not None)
        left = [1 - (i + 1) / len(run["falls"]) for i in range(len(falls))]
        axes.step([0, *falls], [1, *left], where="post", color=colour_of(run, whole), lw=1.7, label=run["name"])
    axes.axvline(whole["epsilon"], color="#8a9099", lw=1, ls="--")
    axes.set(xlabel="ε (dashed: that of the threat model)", ylabel="share of images that stand", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    drawing.legend(axes, "upper right")


def over_epochs(axes: Any, whole: Json) -> None:
    """Local linearity at every validation, one line per run."""
    linearity.draw(axes, histories(whole), collapses(whole), colours(whole))


def histories(whole: Json) -> dict[str, list[Json]]:
    """The validations of each run, by its name."""
    return {run["name"]: run["history"] for run in whole["runs"]}


def collapses(whole: Json) -> dict[str, int | None]:
    """The epoch of each run's first collapse."""
    return {
        run["name"]: next((row["epoch"] for row in run["history"] if row["collapsed"]), None) for run in whole["runs"]
    }


def colours(whole: Json) -> Mapping[str, str]:
    """The colour of each run."""
    return {run["name"]: colour(i) for i, run in enumerate(whole["runs"])}


def colormaps() -> Any:
    """Matplotlib's colour maps by name."""
    with extra("report"):
        from matplotlib import colormaps as known
    return known


def colour_of(run: Json, whole: Json) -> str:
    """The colour of one run."""
    return colours(whole)[run["name"]]


def fixed(width: float, height: float) -> Callable[[Json], tuple[float, float]]:
    """A size for every inspection."""
    return lambda whole: (width, height)


def _size_of_starts(whole: Json) -> tuple[float, float]:
    rows = max((len(_start_rows(run, whole)[0]) for run in whole["runs"] if "epochs" in run["starts"]), default=1)
    return 3.3, 0.2 + 0.57 * rows * whole["pictures"].shape[1] / whole["pictures"].shape[2]


PANELS = (
    Panel("loss-surface", fixed(3.1, 2.8), surface, projection="3d"),
    Panel("loss-section", fixed(3.3, 2.5), section),
    Panel("margins", fixed(3.3, 2.3), margins),
    Panel("confusion", fixed(3.0, 3.0), confusion),
    Panel("grad-cam", fixed(4.4, 2.1), attention, shows=lambda run: run["attention"]["layer"] is not None),
    Panel("starts", _size_of_starts, starts, shows=lambda run: "epochs" in run["starts"]),
)
"""The figures with one axes for each run, in the order of the page."""
