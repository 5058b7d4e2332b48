import numpy as np
import pytest

from headstart.evaluation.paired import paired


def test_equal_verdicts_differ_by_nothing() -> None:
    verdicts = np.random.default_rng(0).random((1, 200)) < 0.4
    assert paired(verdicts, verdicts) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval_of_models_that_fail_on_the_same_images() -> None:
    draw = np.random.default_rng(0)
    a = draw.random((1, 1000)) < 0.5
    b = a & (draw.random((1, 1000)) < 0.94)  # three points below, on the same images
    alike, apart = paired(a, b), paired(a, np.roll(b, 500, axis=1))
    assert alike.difference == pytest.approx(apart.difference) == pytest.approx(a.mean() - b.mean())
    assert 0 < alike.low < alike.difference < alike.high
    assert apart.low < 0
    # the binomial deviation of the images on which the two differ
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * np.sqrt((a != b).mean() / 1000), rel=0.15)


def test_seeds_that_differ_widen_the_interval() -> None:
    draw = np.random.default_rng(0)
    rates = np.array([[0.3], [0.5], [0.4]])
    a, b = draw.random((3, 1000)) < rates, draw.random((2, 1000)) < 0.3
    spread, steady = paired(a, b), paired(draw.random((3, 1000)) < 0.4, b)
    assert spread.high - spread.low > 2 * (steady.high - steady.low)
