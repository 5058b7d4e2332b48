"""From a run, a weights file, a network's name or a network to a measured robustness."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.threat import ThreatModel
from headstart.errors import OutOfMemory, SettingError
from headstart.evaluation.devices import by_first, pick_device, share
from headstart.evaluation.measurement import Measurement, ready
from headstart.evaluation.plan import Images, Plan
from headstart.evaluation.precision import check_search_precision
from headstart.evaluation.result import Evaluation, evaluation_of
from headstart.evaluation.resume import checksum
from headstart.evaluation.settings import EvaluationSettings, named, settings_from
from headstart.evaluation.subject import Source, Subject, find_subject, second_network, training_images
from headstart.evaluation.suites import find_suite
from headstart.evaluation.warnings import warnings_of_overlap
from headstart.runs.files import check_writable, save_weights, write_text
from headstart.runs.folder import partial_of

CUDA_BATCH, CPU_BATCH = 1000, 250


def evaluate(
    source: Source,
    *,
    data: Any = None,
    transfer_from: Source | None = None,
    progress: bool = True,
    partial: Path | None = None,
    save_examples: Path | None = None,
    **fields: Any,
) -> Evaluation:
    """Measure robust accuracy on the test split, fp32.

    Args:
        source: what ``load_classifier`` takes, or a network from images (B, C, H, W) in [0, 1] to logits.
        data: name of a data set, or whatever ``from_python`` takes; default what the weights were trained with.
        transfer_from: a second network for suite full: what ``source`` may be, of the same classes.
        progress: report progress on stderr.
        partial: file for finished attacks, from which the same call goes on; the caller's to delete afterwards.
        save_examples: .safetensors file for the worst example of each image.
        fields: other settings of ``EvaluationSettings``, such as ``suite="quick"`` or ``n=1000``.

    Raises:
        UserError: unusable source, data, suite or threat model.
    """
    settings = settings_from(fields, data=data, transfer_from=transfer_from)
    find_suite(settings.suite)
    _check_files(partial, save_examples)
    device = share(pick_device(settings.device), settings.devices)
    subject = find_subject(source, settings, None if isinstance(data, str) else data)
    second = None if transfer_from is None else second_network(transfer_from, subject.test)
    copies = by_first(lambda: _copies(subject, data))  # before the attacks, since it may take minutes
    found = evaluate_model(
        subject.network, *subject.test.tensors(), subject.threat, settings, device=device, total=subject.total,
        transfer_from=second, progress=progress, partial=partial, save_examples=save_examples,
    )  # fmt: skip
    request = {"source": named(source), **asdict(settings)}
    return replace(found, warnings=[*found.warnings, *copies], request=request)


def conditions(source: Source, *, data: Any = None, progress: bool = True, **fields: Any) -> dict[str, Any]:
    """Under which conditions ``evaluate`` would measure, as its record says them; nothing is attacked.

    Raises:
        UserError: see ``evaluate``.
    """
    settings = settings_from(fields, data=data)
    find_suite(settings.suite)
    pick_device(settings.device)
    subject = find_subject(source, settings, None if isinstance(data, str) else data)
    facts = {"suite": settings.suite, "n": len(subject.test), "images": checksum(subject.test.tensors())}
    return facts | {"epsilon": subject.threat.epsilon, "norm": subject.threat.norm}


def evaluate_into(record: Path, source: Source, **asked: Any) -> Evaluation:
    """``evaluate``, with the result in a JSON file; until it is there, finished attacks are kept beside it.

    Args:
        asked: arguments of ``evaluate``.

    Raises:
        UserError: see ``evaluate``; a file that cannot be written.
    """
    check_writable(record)
    partial = partial_of(record)
    found = evaluate(source, partial=partial, **asked)
    if distributed.rank() == 0:
        write_text(record, json.dumps(found.to_json(), indent=2) + "\n")
        partial.unlink(missing_ok=True)
    return found


def evaluate_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    settings: EvaluationSettings,
    *,
    device: torch.device | str | None = None,
    total: int | None = None,
    transfer_from: nn.Module | None = None,
    progress: bool = True,
    partial: Path | None = None,
    save_examples: Path | None = None,
) -> Evaluation:
    """``evaluate``, of a model on images that are at hand. Processes of one group that call it alike share the work.

    An attack's word is not taken: what it returns is projected onto the threat model again and classified in strict
    float32 by the model as it was given. Mode and parameters of the model and the global generators stay as they were.

    Args:
        model: from fp32 images (B, C, H, W) in [0, 1] to logits (B, K).
        x: images (N, C, H, W), uint8 or floats in [0, 1], best on the CPU; ``y``: labels (N,), int64.
        settings: of which suite, batch_size, seed and search_precision are left to follow.
        device: the model is moved there; where None, it stays where its parameters are.
        total: size of the whole test set, of which ``x`` may be a part; None for ``x`` itself.
        save_examples: gets ``x_adv`` fp32 (N, C, H, W), ``y`` and ``index`` int64 (N,).

    Raises:
        UserError: arguments unlike the above, an unknown suite, a full memory, or a file that cannot be written.
    """
    images = Images(x, y, torch.device(device) if device is not None else device_of(model))
    plan = plan_of(settings, threat, images.device, transfer_from)
    measured = _measured(model, images, plan, transfer_from, partial, save_examples is not None, progress)
    if save_examples is not None and distributed.rank() == 0:
        _save_examples(save_examples, measured)
    return evaluation_of(measured, total)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def plan_of(
    settings: EvaluationSettings, threat: ThreatModel, device: torch.device, transfer_from: nn.Module | None
) -> Plan:
    """The settings with nothing left open, for a device; SettingError where they contradict each other."""
    if "transfer" not in find_suite(settings.suite).attacks and transfer_from is not None:
        raise SettingError(f"transfer_from is for suite 'full'; suite {settings.suite!r} has no transfer attack")
    check_search_precision(settings.search_precision, device)
    size = settings.batch_size or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH)
    return Plan(settings.suite, threat, size, settings.seed, settings.search_precision)


def _measured(
    model: nn.Module,
    images: Images,
    plan: Plan,
    source: nn.Module | None,
    partial: Path | None,
    keep_examples: bool,
    progress: bool,
) -> Measurement:
    """The measurement, finished."""
    device, size = images.device, plan.batch_size
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with ready(model, device), ready(source, device), forked, enough_memory(device, size):
        torch.manual_seed(plan.seed)
        measured = Measurement(model, images, plan, source=source, partial=partial, keep_examples=keep_examples)
        measured.attack_all(progress)
    return measured


@contextmanager
def enough_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Inside, a full memory is the user's error: OutOfMemory, with a smaller size of batches."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{device} has not enough memory for batches of {batch_size}: try batch_size={max(1, batch_size // 2)}"
        ) from error


def _copies(subject: Subject, data: Any) -> list[str]:
    """Warnings of test images that the network was trained on."""
    training = training_images(subject, data)
    return [] if training is None else warnings_of_overlap(subject.test.tensors()[0], training)


def _check_files(partial: Path | None, save_examples: Path | None) -> None:
    if save_examples is not None and save_examples.suffix != ".safetensors":
        raise SettingError(f"save_examples is {save_examples}; its name must end in .safetensors")
    for path in (partial, save_examples):
        if path is not None:
            check_writable(path)


def _save_examples(path: Path, done: Measurement) -> None:
    assert done.outcome.examples is not None
    y, plan = done.images.y, done.plan
    tensors = {"x_adv": done.outcome.examples, "y": y, "index": torch.arange(len(y))}
    facts = {"suite": plan.suite, "epsilon": str(plan.threat.epsilon), "norm": plan.threat.norm}
    save_weights(path, tensors, facts)
