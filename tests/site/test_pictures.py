"""The drawings of "FGSM-SDI explained": what they show is what the method does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from website.pages import RECORDS
from website.pictures import SHOWN, curves_of, save, stages_of, steps_of

import headstart
from headstart.runs.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two updates of FGSM-SDI on digits."""
    out = tmp_path_factory.mktemp("pictures") / "run"
    headstart.train("digits/fgsm-sdi", out, max_steps=2, epsilon_ramp=0, progress=False, device="cpu")
    return RunFolder(out)


def test_the_rows_are_the_stages_of_an_update(run: RunFolder) -> None:
    epsilon, (image, sign, start, perturbation, trained_on) = stages_of(run)
    assert epsilon == 0.25
    assert image.shape == (SHOWN, 1, 8, 8)
    assert set(sign.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert 0 < start.abs().max() < epsilon
    assert perturbation.abs().max() == pytest.approx(epsilon)
    torch.testing.assert_close(trained_on, image + perturbation)


def test_both_are_drawn(run: RunFolder, tmp_path: Path) -> None:
    curves = json.loads((RECORDS / "demo" / "details.json").read_text())["curves"]
    figure = curves_of(curves)
    assert [axis.get_title() for axis in figure.axes] == [*curves]
    drawn = figure.axes[0].lines[1].get_ydata()
    assert np.asarray(drawn).tolist() == [100 * row["pgd"] for row in curves["fgsm"]]
    save(figure, tmp_path / "curves.svg")
    save(steps_of(run), tmp_path / "steps.svg")
    assert all((tmp_path / name).read_text().rstrip().endswith("</svg>") for name in ("curves.svg", "steps.svg"))
