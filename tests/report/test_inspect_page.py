"""The page of an inspection and its figures: what they draw, of runs that have everything and of those that do not."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from headstart.report import inspect_page, inspect_tiles, linearity
from headstart.report.inspect_figures import PANELS, standing

POINTS, IMAGES = 5, 3


def run(name: str, steep: float, *, linear: bool = True, bare: bool = False) -> dict[str, Any]:
    along = np.linspace(0, 1, POINTS)
    line = (steep * along).tolist()
    picture = np.full((2, 4, 4), 0.5)
    rows = [
        {"epoch": e, "epsilon": 0.1, "collapsed": steep > 1 and e == 3, "pgd": 0.2}
        | ({"linearity": 1 - e / 10} if linear else {})
        for e in (1, 2, 3)
    ]
    return {
        "name": name,
        "history": [] if bare else rows,
        "surface": {
            "along": along.tolist(),
            "across": np.linspace(-1, 1, POINTS).tolist(),
            "mean": [(steep * along).tolist()] * POINTS,
            "right": [(1 - along).tolist()] * POINTS,
            "line": line,
            "predicted": line,
            "step": line,
            "lines": [line] * IMAGES,
            "deviation": steep / 2,
            "missed": 0.25,
            "ridge": 0.125,
        },
        "margins": {"clean": [1.0, 2.0, 3.0], "attacked": [-1.0, 0.5, 1.0]},
        "confusion": [[1, 1], [0, 1]],
        "falls": [0.0, 0.05, 0.3, None],
        "attention": {"layer": None, "why": "no map"}
        if bare
        else {"layer": "last", "clean": [0, 1], "attacked": [1, 1]},
        "starts": {"why": "weights alone"} if bare else {"epochs": [{"epoch": 3, "epsilon": 0.1, "kept": 0.5}]},
        "pictures": {
            "attention": {} if bare else {"clean": picture, "attacked": picture, "images": picture},
            "starts": [] if bare else [{"initial": None, "step": picture - 0.45, "final": picture - 0.45}],
        },
    }


def inspection(*runs: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": "digits (test)",
        "norm": "linf",
        "epsilon": 0.1,
        "n": 2,
        "sample": 4,
        "seed": 0,
        "classes": ["cat", "dog"],
        "pictures": np.full((2, 4, 4), 0.5),
        "runs": list(runs),
        "seconds": 1.0,
        "environment": {"device": "cpu of the test"},
    }


@pytest.fixture
def whole() -> dict[str, Any]:
    return inspection(run("fgsm", 2.0), run("pgd-at", 0.5))


def test_the_page_tells_the_numbers_and_asks_for_nothing(whole: Any, parsed: Any) -> None:
    page = inspect_page(whole)
    seen = parsed(page)
    assert seen.row("fgsm")[1:] == ["50.0", "0.175", "1.00", "0.25", "0.12", "0.70", "3"]
    assert seen.row("pgd-at")[1:] == ["50.0", "0.175", "0.25", "0.25", "0.12", "0.70", "—"]
    assert "the loss of fgsm leaves its linear course by 1.00, that of pgd-at by 0.25" in seen.text
    assert page.count("<svg") == 2 * len(PANELS) + 2
    assert len(page) < 400_000
    assert page.count("<script") == 1, "that of the tables"


def test_weights_alone_and_networks_of_tokens_get_a_line_each(parsed: Any) -> None:
    seen = parsed(inspect_page(inspection(run("bare", 0.5, bare=True))))
    assert "bare: weights alone." in seen.text
    assert "bare: no map." in seen.text
    assert "Local linearity over training" not in seen.text
    assert seen.row("bare")[6:] == ["—", "—"]


def test_a_name_cannot_leave_its_place(parsed: Any) -> None:
    hostile = "<script>alert(1)</script>"
    page = inspect_page(inspection(run(hostile, 0.5)))
    assert "<script>alert" not in page


def test_surfaces_have_one_scale_and_the_colour_of_accuracy(whole: Any) -> None:
    heights = []
    for own in whole["runs"]:
        axes = MagicMock()
        PANELS[0].draw(axes, own, whole)
        points, options = axes.plot_surface.call_args
        assert points[2].tolist() == own["surface"]["mean"]
        assert (options["facecolors"][:, 0] != options["facecolors"][:, -1]).any()
        heights.append(axes.set.call_args.kwargs["zlim"])
    assert heights[0] == heights[1] == (0, pytest.approx(2.04))


def test_the_line_of_standing_images_steps_where_they_fall(whole: Any) -> None:
    axes = MagicMock()
    standing(axes, whole)
    sizes, shares = axes.step.call_args_list[0].args
    assert sizes == [0, 0.0, 0.05, 0.3]
    assert shares == [1, 0.75, 0.5, 0.25], "one of four stood to the end"


# -- local linearity -------------------------------------------------------------------------------------------------


def points(*values: float) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "linearity": value} for epoch, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("values", "collapse", "said"),
    [
        ((0.9, 0.4, 0.1), 3, "fell below 0.50, the lowest of the runs that did not collapse, at epoch 2, before"),
        ((0.9, 0.6, 0.1), 3, "with the collapse, and gave no warning"),
        ((0.9, 0.6, 0.1), 2, "only at epoch 3, and gave no warning"),
        ((0.9, 0.8, 0.7), 2, "never fell below 0.50"),
    ],
)
def test_whether_linearity_warned(values: tuple[float, ...], collapse: int, said: str) -> None:
    curves = {"fgsm": points(*values), "calm": points(0.9, 0.5, 0.6)}
    (verdict,) = linearity.verdicts(curves, {"fgsm": collapse, "calm": None})
    assert said in verdict


def test_without_a_collapse_or_without_a_calm_run_nothing_is_judged() -> None:
    curves = {"a": points(0.9, 0.1)}
    assert "No run collapsed" in linearity.verdicts(curves, {"a": None})[0]
    assert "Every run collapsed" in linearity.verdicts(curves, {"a": 2})[0]
    assert linearity.linearity_section({"old": [{"epoch": 1, "pgd": 0.5}]}, {}, {}) is None


# -- tiles -----------------------------------------------------------------------------------------------------------


def test_tiles_stand_where_their_centres_say() -> None:
    red, blue = (
        inspect_tiles.image(np.tile([1.0, 0, 0], (4, 6, 1))),
        inspect_tiles.image(np.tile([0, 0, 1.0], (4, 6, 1))),
    )
    whole = inspect_tiles.tiled([[red, blue], [None, red]])
    xs, ys = inspect_tiles.centres(2, 6, 4), inspect_tiles.centres(2, 4, 6)
    found = [[whole[round(y), round(x)].tolist() for x in xs] for y in ys]
    assert found == [[[1, 0, 0, 1], [0, 0, 1, 1]], [[0, 0, 0, 0], [1, 0, 0, 1]]]


def test_perturbations_are_white_where_they_leave_an_image_alone() -> None:
    grey = inspect_tiles.perturbation([[0.0, 0.1, -0.1]], 0.1)
    assert grey[0, 0].tolist() == [1, 1, 1, 1]
    assert grey[0, 1, 0] > grey[0, 1, 2], "orange brightens"
    assert grey[0, 2, 0] < grey[0, 2, 2], "blue darkens"
    assert inspect_tiles.perturbation(np.zeros((1, 1, 3)), 0.1)[0, 0].tolist() == [0.5, 0.5, 0.5, 1]


def test_heat_hides_nothing_where_there_is_none() -> None:
    shown = inspect_tiles.heated([[0.2, 0.8]], [[0.0, 1.0]])
    assert shown[0, 0, :3].tolist() == pytest.approx([0.2] * 3)
    assert shown[0, 1, 0] > 0.9
    assert shown[0, 1, 2] < 0.5
