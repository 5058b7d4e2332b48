"""The demo: what is recorded of a method, that it is not measured twice, and what is said while it runs."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from headstart.campaigns.demo import run_method
from headstart.campaigns.following import follow
from headstart.recipes.reader import load_recipe
from headstart.runs.folder import RunFolder

IMAGES = 4
SHORT: dict[str, Any] = {"epochs": 2, "val_size": 50, "device": "cpu", "model_args": {"widths": [4, 8]}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The folder of the run. Tests only read it."""
    return RunFolder(tmp_path_factory.mktemp("demo") / "fgsm")


@pytest.fixture(scope="module")
def measured(run: RunFolder) -> dict[str, Any]:
    """A short training and its evaluations."""
    return run_method(load_recipe("digits/fgsm", **SHORT), run, IMAGES)


def test_a_method_is_recorded_with_all_that_the_page_shows(measured: dict[str, Any]) -> None:
    assert measured["n"] == IMAGES
    assert measured["autoattack"] <= measured["pgd"] <= measured["clean"]
    details = measured["details"]
    assert details["passes"] == {"forwards": 2, "input_gradients": 1, "backwards": 1}
    assert [row["epoch"] for row in details["curve"]] == [1, 2]
    samples = details["samples"]
    assert samples["initial"] is None, "plain FGSM starts from zero"
    epsilon = max(abs(value) for image in samples["final"] for row in image for value in row)
    assert epsilon == pytest.approx(0.25)
    assert len(samples["predictions"]) == len(samples["labels"]) == len(samples["adversarial"]) == 6


def test_what_an_earlier_call_measured_is_not_measured_again(
    run: RunFolder, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("headstart.campaigns.demo.evaluate", never)
    assert run_method(load_recipe("digits/fgsm", **SHORT), run, IMAGES) == measured


def test_every_method_is_reported_once_and_an_error_ends_the_demo(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    futures: dict[str, Future[dict[str, Any]]] = {name: Future() for name in ("fgsm", "pgd-at")}
    for future in futures.values():
        future.set_result({"seconds": 12.3, "autoattack": 0.215})
    follow({name: (future, 3, RunFolder(tmp_path / name)) for name, future in futures.items()})
    said = "trained in 12 s, AutoAttack 21.5%"
    assert caplog.messages == [f"fgsm: {said}", f"pgd-at: {said}"]
    broken: Future[dict[str, Any]] = Future()
    broken.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        follow({"fgsm": (broken, 3, RunFolder(tmp_path))})
