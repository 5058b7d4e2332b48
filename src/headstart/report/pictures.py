"""Small pictures of images and perturbations, embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.report.records import Record
from headstart.report.style import NEGATIVE, POSITIVE
from headstart.report.tables import budget, escape, swatch

_PIXEL_ART = 64  # below this width, show pixels as squares instead of a blur


def picture(values: Any, alt: str) -> str:
    """An image (H, W) or (H, W, 3) in [0, 1] as an ``<img>``."""
    return _img(np.asarray(values, dtype=np.float64), alt)


def perturbation(values: Any, epsilon: float, alt: str) -> str:
    """A signed perturbation as an ``<img>``, where zero is neutral and epsilon has full strength.

    Grey images (H, W): blue darkens, orange brightens, transparent leaves alone. Colour images (H, W, 3): each
    channel around mid-grey.
    """
    relative = np.clip(np.asarray(values, dtype=np.float64) / epsilon, -1, 1)
    if relative.ndim == 3:
        return _img((relative + 1) / 2, alt)
    ends = np.where(relative[..., None] < 0, NEGATIVE, POSITIVE) / 255
    return _img(np.concatenate([ends, abs(relative)[..., None]], axis=-1), alt)


def samples_table(samples: Record, epsilon: float, colours: Mapping[str, str]) -> str:
    """Images in columns; below them, per method, both perturbations and the adversarial image with its prediction."""
    classes, labels = [str(name) for name in samples["classes"]], samples["labels"]
    truth = [classes[label] for label in labels]
    images = [picture(image, f"image, {name}") for image, name in zip(samples["images"], truth, strict=True)]
    bodies = [_body(_row("true class", map(escape, truth)), _row("image", images))]
    for method, colour in colours.items():
        own = samples["per_method"].get(method)
        if own is None:
            continue
        name = method.upper()
        title = f"{swatch(colour)}{escape(name)}"
        verdicts = [_verdict(classes[p], p == label) for p, label in zip(own["predictions"], labels, strict=True)]
        body = _body(
            f'<th class="method" scope="row" colspan="{len(labels) + 1}">{title}</th>',
            _perturbations("initial perturbation", own.get("initial"), epsilon, name, len(labels)),
            _perturbations("final perturbation", own["final"], epsilon, name, len(labels)),
            _row("adversarial image", (picture(image, f"adversarial image, {name}") for image in own["adversarial"])),
            _row("prediction", verdicts),
        )
        bodies.append(body)
    return f'<div class="card scroll"><table class="samples">{"".join(bodies)}</table></div>'


def perturbation_key(samples: Record, epsilon: float) -> str:
    """How perturbations are coloured, for grey or colour images."""
    if np.asarray(samples["images"][0]).ndim == 3:
        return '<p class="key">Perturbations around mid-grey, channel by channel: mid-grey pixels are left alone.</p>'
    limit = escape(budget(epsilon))
    scale = f'<span>&minus;{limit}<span class="scale"></span>+{limit}</span>'
    return f'<div class="key">{scale}<span>pixels without colour are left alone</span></div>'


def _img(values: NDArray[np.float64], alt: str) -> str:
    file = io.BytesIO()
    Image.fromarray(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = values.shape[:2]
    style = ' class="pixels"' if width < _PIXEL_ART else ""
    return f'<img{style} width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _verdict(predicted: str, correct: bool) -> str:
    style, sign = ("right", "✓") if correct else ("wrong", "✗")
    return f'<span class="verdict {style}">{sign} {escape(predicted)}</span>'


def _perturbations(title: str, deltas: Any, epsilon: float, method: str, count: int) -> str:
    if deltas is None:
        return f'<th scope="row">{title}</th><td class="empty" colspan="{count}">starts from zero</td>'
    return _row(title, (perturbation(delta, epsilon, f"{title}, {method}") for delta in deltas))


def _row(title: str, cells: Iterable[str]) -> str:
    return f'<th scope="row">{title}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


def _body(*rows: str) -> str:
    return "<tbody>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</tbody>"
