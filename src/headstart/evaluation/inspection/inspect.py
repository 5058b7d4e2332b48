"""All analyses of some networks, on the same images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from headstart.core.threat import ThreatModel
from headstart.errors import SettingError, UserError
from headstart.evaluation.devices import pick_device
from headstart.evaluation.inspection.attention import grad_cam, looked_at
from headstart.evaluation.inspection.falls import falling_epsilons
from headstart.evaluation.inspection.history import history
from headstart.evaluation.inspection.margins import margins
from headstart.evaluation.inspection.pictures import channels_last, thumbnails
from headstart.evaluation.inspection.search import worst
from headstart.evaluation.inspection.starts import starts
from headstart.evaluation.inspection.surface import Surface, loss_surface
from headstart.evaluation.settings import NOT_INSPECTED, EvaluationSettings, settings_from
from headstart.evaluation.subject import Subject, find_subject
from headstart.recipes.reader import load_recipe
from headstart.runs.environment import environment
from headstart.runs.folder import RunFolder

LOG = logging.getLogger(__name__)
T = TypeVar("T")
BATCH = 100


def inspect(sources: Sequence[str], *, n: int = 8, sample: int = 200, **fields: Any) -> dict[str, Any]:
    """Look inside networks: every analysis of each, on the same images.

    Args:
        sources: run folders, or what else ``headstart evaluate`` takes.
        n: test images that are shown.
        sample: test images behind every curve and distribution; all there are, where there are fewer.
        fields: the settings as ``evaluate`` takes them, less ``NOT_INSPECTED``.

    Returns:
        What ``headstart.report.inspect_page`` draws: types that JSON knows, but for NumPy arrays in ``pictures``,
        here and in each run.

    Raises:
        UserError: an unusable source, data that does not belong to it, or sources without a task in common.
    """
    began = time.perf_counter()
    settings, names = _settings(fields), _names(sources)
    if not 1 <= n <= sample:
        raise SettingError(f"n is {n} and sample {sample}; show at least one image, and sample at least as many")
    subjects = [find_subject(source, settings) for source in sources]
    first = _task_in_common(dict(zip(names, subjects, strict=True)))
    x, y = _images(first, n, sample, device := pick_device(settings.device))
    runs = [
        {"name": name, **_inspected(name, source, subject, x, y, n, settings)}
        for name, source, subject in zip(names, sources, subjects, strict=True)
    ]
    return {
        "data": first.test.name,
        "norm": first.threat.norm,
        "epsilon": first.threat.epsilon,
        "n": n,
        "sample": len(x),
        "seed": settings.seed,
        "classes": list(first.test.classes),
        "pictures": channels_last(thumbnails(x[:n])),
        "runs": runs,
        "seconds": time.perf_counter() - began,
        "environment": environment(device),
    }


def _settings(fields: dict[str, Any]) -> EvaluationSettings:
    for name in NOT_INSPECTED:
        if name in fields:
            raise SettingError(f"{name} is a setting of an evaluation, not of an inspection; leave it out")
    return settings_from(fields)


def _images(subject: Subject, n: int, sample: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first test images, fp32 (B, C, H, W) in [0, 1], and their labels."""
    if n > len(subject.test):
        raise SettingError(f"n is {n}; {subject.test.name} has {len(subject.test)} images")
    x, y = (rows[:sample].to(device) for rows in subject.test.tensors())
    return x.float() / 255, y


def _names(sources: Sequence[str]) -> list[str]:
    """What each source is called: the name of its folder or file, with its parent's where two share it."""
    paths = [Path(source) for source in sources]
    short = [path.stem if path.suffix else path.resolve().name for path in paths]
    names = [n if short.count(n) == 1 else f"{p.resolve().parent.name}/{n}" for n, p in zip(short, paths, strict=True)]
    if len(set(names)) < len(names):
        raise SettingError(f"two of the runs are called {max(names, key=names.count)!r}; inspect each run once")
    return names


def _task_in_common(subjects: dict[str, Subject]) -> Subject:
    """One of the subjects, all of which have the same images and threat model."""
    (name, first), *others = subjects.items()
    for other, subject in others:
        for what, mine, theirs in (
            ("data", first.test.name, subject.test.name),
            ("shape of the images", first.test.shape, subject.test.shape),
            ("norm", first.threat.norm, subject.threat.norm),
            ("epsilon", f"{first.threat.epsilon:.4g}", f"{subject.threat.epsilon:.4g}"),
        ):
            if mine != theirs:
                raise SettingError(
                    f"{name} and {other} differ in {what}: {mine} and {theirs}; give one for all (data, epsilon, "
                    "norm), or inspect them apart"
                )
    return first


def _inspected(
    name: str, source: str, subject: Subject, x: Tensor, y: Tensor, n: int, settings: EvaluationSettings
) -> dict[str, Any]:
    """Every analysis of one network."""
    LOG.info("%s: looking inside, on %d images", name, len(x))
    model, threat, draw = subject.network.to(x.device).eval(), subject.threat, torch.Generator(x.device)

    def measured(analysis: Callable[..., T]) -> list[T]:
        draw.manual_seed(settings.seed)  # whatever the others draw
        rows = torch.arange(len(x)).tensor_split(-(-len(x) // (settings.batch_size or BATCH)))
        return [analysis(model, x[part], y[part], threat, draw) for part in rows]

    looks, seen = _attention(model, x[:n], y[:n], threat, draw.manual_seed(settings.seed))
    perturbations, shown = _starts(source, subject, x, y, n)
    found = measured(margins)
    return {
        "history": history(Path(source)) if Path(source).is_dir() else [],
        "surface": _surface(measured(loss_surface), n),
        "margins": {key: _rounded(torch.cat([getattr(part, key) for part in found])) for key in ("clean", "attacked")},
        "confusion": torch.stack([part.confusion for part in found]).sum(0).tolist(),
        "falls": [value if value < torch.inf else None for value in _rounded(torch.cat(measured(falling_epsilons)))],
        "attention": looks,
        "starts": perturbations,
        "pictures": {"attention": seen, "starts": shown},
    }


def _surface(parts: list[Surface], n: int) -> dict[str, Any]:
    """The surface of all batches together: means over the images, and the lines of the first n."""
    first, fields = parts[0], ("loss", "right", "predicted", "step")
    whole = Surface(first.along, first.across, *(torch.cat([getattr(part, key) for part in parts]) for key in fields))
    return {
        "along": _rounded(whole.along),
        "across": _rounded(whole.across),
        "mean": _rounded(whole.loss.mean(0)),
        "right": _rounded(whole.right.double().mean(0)),
        **{key: _rounded(getattr(whole, key).mean(0)) for key in ("line", "predicted", "step")},
        "lines": _rounded(whole.line[:n]),
        "deviation": whole.deviation,
        "missed": whole.missed,
        "ridge": whole.ridge,
    }


def _rounded(values: Tensor) -> Any:
    """As lists, with as many decimals as a picture or a reader can use."""
    return values.double().round(decimals=5).tolist()


def _attention(
    model: torch.nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, draw: torch.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predictions and Grad-CAM, clean and under the worst perturbation; the second part as arrays."""
    delta, _ = worst(model, x, y, threat, score="margin", generator=draw)
    layer = looked_at(model, x)
    if layer is None:
        return {"layer": None, "why": "no convolution behind the first has a map to weigh"}, {}
    clean, attacked = (grad_cam(model, point, layer) for point in (x, x + delta))
    words = {"layer": layer, "clean": clean.predictions.tolist(), "attacked": attacked.predictions.tolist()}
    arrays = {
        "clean": thumbnails(clean.maps[:, None])[:, 0].numpy(),
        "attacked": thumbnails(attacked.maps[:, None])[:, 0].numpy(),
        "images": channels_last(thumbnails(x + delta)),
    }
    return words, arrays


def _starts(source: str, subject: Subject, x: Tensor, y: Tensor, n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the method does, by epoch, or why that cannot be shown; the second part as arrays."""
    if not Path(source).is_dir():
        return {"why": "weights alone; the method's state is in a run folder"}, []
    try:
        recipe = load_recipe(str(RunFolder(Path(source)).config))
        batch = slice(0, max(n, recipe.batch_size))
        found = starts(Path(source), recipe, subject.network.cpu(), x[batch].cpu(), y[batch].cpu())
    except UserError as error:
        return {"why": str(error)}, []
    rows = [{"epoch": at.epoch, "epsilon": at.epsilon, "kept": at.kept} for at in found]
    arrays = [
        {
            key: None if delta is None else channels_last(thumbnails(delta[:n]))
            for key, delta in (("initial", at.initial), ("step", at.step), ("final", at.final))
        }
        for at in found
    ]
    return {"epochs": rows}, arrays
