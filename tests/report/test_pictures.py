from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.report.pictures import Picture, perturbation, picture


def decode(found: Picture) -> NDArray[np.uint8]:
    kind, _, data = found.src.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_images_keep_their_pixels() -> None:
    grey = [[0.0, 0.2], [1.0, 0.4]]
    assert decode(picture(grey, "")).tolist() == [[0, 51], [255, 102]]
    colour = np.random.default_rng(0).uniform(size=(3, 2, 3))
    assert np.abs(decode(picture(colour.tolist(), "")) / 255 - colour).max() <= 0.5 / 255 + 1e-9


def test_zero_is_transparent_and_signs_differ_in_colour() -> None:
    negative, zero, half, beyond = decode(perturbation([[-0.3, 0.0, 0.15, 0.9]], 0.3, ""))[0].tolist()
    assert [negative[3], zero[3], half[3], beyond[3]] == [255, 0, 128, 255]
    assert negative[2] > negative[0]  # blue darkens
    assert beyond[0] > beyond[2]  # orange brightens
    assert half[:3] == beyond[:3]


def test_a_colour_perturbation_is_drawn_around_mid_grey() -> None:
    assert decode(perturbation([[[0.0, 0.1, -0.1]]], 0.1, "")).tolist() == [[[128, 255, 0]]]
