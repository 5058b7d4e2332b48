"""Robust accuracy under a suite of attacks, and the reasons there may be not to trust it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart.attacks.autoattack import BatchAttack
from headstart.attacks.catalogue import ATTACKS, SUITES, Suite
from headstart.attacks.masking import Evidence, warnings_of_attacks, warnings_of_forward, warnings_of_subset
from headstart.attacks.precision import float32
from headstart.attacks.progress import AttackProgress
from headstart.attacks.scores import cross_entropy
from headstart.errors import UserError, unknown
from headstart.threat import ThreatModel

__all__ = ["ATTACKS", "SUITES", "Evaluation", "Suite", "evaluate_model"]

CUDA_BATCH, CPU_BATCH = 1000, 250
CHECKED = 250
"""Images of the first batch on which the model's forward pass is examined."""


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate_model``. Accuracies are fractions of all ``n`` images.

    Attributes:
        suite: name of the suite.
        n: number of images.
        epsilon, norm: the threat model; epsilon in pixel fractions.
        clean: accuracy without attack.
        robust: share of images correct without attack and under every attack of the suite.
        attacks: accuracy by attack. FGSM, PGD and C&W are each run on all images correct when clean, and theirs is
            the accuracy under that attack alone. AutoAttack's attacks are each run on what the ones before left,
            and theirs is the accuracy that remains, as AutoAttack reports it.
        settings: what each attack was run with, in words.
        warnings: reasons not to trust ``robust``, one sentence each.
        broken_by: for each image the attack that broke it first, "clean" where the model was wrong without
            attack, None where it is robust.
        precision: of the attacks' search and of the verdicts.
        seconds: wall time.
        environment: device and versions.
    """

    suite: str
    n: int
    epsilon: float
    norm: str
    clean: float
    robust: float
    attacks: dict[str, float]
    settings: dict[str, str]
    warnings: list[str]
    broken_by: list[str | None]
    precision: str
    seconds: float
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All fields, of types that JSON knows."""
        return asdict(self)


def evaluate_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    suite: str = "standard",
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
    total: int | None = None,
    tf32: bool = False,
) -> Evaluation:
    """Attack the model with every attack of a suite.

    An attack's word is not taken: what it returns is projected onto the threat model again and classified in
    strict float32 before it counts. The model is evaluated in evaluation mode with its parameters frozen, both
    restored at the end; the global random generators are left as they were.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K).
        x: images (N, C, H, W), uint8, or floating point in [0, 1]; best on the CPU, from where batches are moved.
        y: labels (N,), int64.
        threat: the threat model.
        suite: a name in ``SUITES``.
        batch_size: images attacked at once; 1000 on CUDA and 250 elsewhere where None.
        device: the model is moved there; where None, it stays where its parameters are.
        seed: of all attacks.
        progress: report progress on stderr.
        total: size of the whole test set, of which ``x`` may be a part; None for ``x`` itself.
        tf32: let the attacks search with TF32 matrix products on CUDA, several times faster. Verdicts stay in
            float32, and what only TF32 takes for broken is attacked again in float32.

    Raises:
        UserError: unknown suite; images, labels, model output or model that do not fit the above; too few classes
            for AutoAttack; a batch that does not fit the memory of the device.
    """
    started = time.perf_counter()
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    _check_data(x, y, batch_size)
    device = torch.device(device) if device is not None else _device_of(model)
    size = batch_size or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH)
    with _ready(model, device):
        try:
            found, evidence, settings = _run(model, x, y, threat, SUITES[suite], size, device, seed, progress, tf32)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has not enough memory for batches of {size}: try batch_size={max(1, size // 2)}"
            ) from error
    names = SUITES[suite].attacks
    caveat = SUITES[suite].caveat
    return Evaluation(
        suite=suite,
        n=len(x),
        epsilon=threat.epsilon,
        norm=threat.norm,
        clean=_share(evidence.clean),
        robust=_share(evidence.robust),
        attacks={name: _share(evidence.left[name]) for name in names},
        settings=settings,
        warnings=([caveat] if caveat else []) + warnings_of_subset(len(x), total) + found,
        broken_by=_broken_by(evidence, names),
        precision="tf32 search, float32 verdicts" if tf32 else "float32",
        seconds=time.perf_counter() - started,
        environment=_environment(device),
    )


def _run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    suite: Suite,
    size: int,
    device: torch.device,
    seed: int,
    progress: bool,
    tf32: bool,
) -> tuple[list[str], Evidence, dict[str, str]]:
    """The warnings, what they were drawn from, and the attacks' settings."""
    evidence = _classify_clean(model, x, y, size, device)
    classes = evidence.classes
    # FGSM costs two passes, and comparing it with the suite's attacks shows much; it counts only where listed.
    names = suite.attacks if "fgsm" in suite.attacks else ("fgsm", *suite.attacks)
    attacks = {name: ATTACKS[name].prepare(model, threat, classes=classes, seed=seed, device=device) for name in names}
    found = warnings_of_forward(model, *_fetch(x, y, torch.arange(min(len(x), size, CHECKED)), device))
    left_by_autoattack = evidence.clean.clone()
    with AttackProgress(progress) as display:
        for name, attack in attacks.items():
            cumulative = ATTACKS[name].cumulative
            pool = left_by_autoattack if cumulative else evidence.clean
            label = name if name in suite.attacks else f"{name} (check)"
            display.start(label, int(pool.sum()), _share(evidence.robust))
            broken = torch.zeros_like(pool)
            for indices in torch.split(pool.nonzero().squeeze(1), size):
                batch = _fetch(x, y, indices, device)
                withstood = _withstands(model, attack, *batch, threat, tf32).cpu()
                broken[indices] = ~withstood
                if name in suite.attacks:
                    evidence.robust[indices] &= withstood
                display.advance(len(indices), _share(evidence.robust))
            display.finish(_share(evidence.robust))
            evidence.broken[name] = broken
            evidence.left[name] = pool & ~broken
            if cumulative:
                left_by_autoattack = evidence.left[name]
    settings = {name: ATTACKS[name].settings(threat, classes) for name in suite.attacks}
    return found + warnings_of_attacks(evidence), evidence, settings


@torch.no_grad()
def _withstands(model: nn.Module, attack: BatchAttack, x: Tensor, y: Tensor, threat: ThreatModel, tf32: bool) -> Tensor:
    """Whether the model is right under the attack, bool (B,), whatever the attack believes."""
    with float32(x.device, tf32=tf32):
        delta = (attack(x, y) - x).nan_to_num()  # a pixel that is not a number is no perturbation
        x_adv = x + threat.box(x, threat.project(delta))
        believed = _correct(model(x_adv), y) if tf32 else None
    right = _correct(model(x_adv), y)
    if believed is not None:
        denied = (right & ~believed).nonzero().squeeze(1)
        if len(denied):
            right[denied] = _withstands(model, attack, x[denied], y[denied], threat, tf32=False)
    return right


def _correct(logits: Tensor, y: Tensor) -> Tensor:
    # A model without an answer is not right, whichever class argmax makes of it.
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


@torch.no_grad()
def _classify_clean(model: nn.Module, x: Tensor, y: Tensor, size: int, device: torch.device) -> Evidence:
    clean, saturated, classes = [], [], 0
    for indices in torch.split(torch.arange(len(x)), size):
        images, labels = _fetch(x, y, indices, device)
        logits = model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"the model returns {shape} for {len(images)} images; it must return logits (B, K), K >= 2")
        classes = logits.shape[1]
        if int(labels.max()) >= classes:
            raise UserError(f"label {int(labels.max())} is outside the model's {classes} classes (0 to {classes - 1})")
        if not bool(logits.isfinite().all()):
            raise UserError("the model's logits of clean images are not all finite; are its weights?")
        clean.append(_correct(logits, labels).cpu())
        saturated.append((cross_entropy(logits.float(), labels) == 0).cpu())
    correct = torch.cat(clean)
    return Evidence(classes, clean=correct, saturated=torch.cat(saturated), robust=correct.clone())


def _broken_by(evidence: Evidence, names: tuple[str, ...]) -> list[str | None]:
    first: list[str | None] = [None if right else "clean" for right in evidence.clean.tolist()]
    for name in names:
        for i in evidence.broken[name].nonzero().squeeze(1).tolist():
            first[i] = first[i] or name
    return first


def _fetch(x: Tensor, y: Tensor, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in fp32 and labels (B,), on the device."""
    images = x[indices].to(device)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return images.contiguous(), y[indices].to(device)


def _check_data(x: Tensor, y: Tensor, batch_size: int | None) -> None:
    if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise UserError(f"images are {x.dtype} of shape {tuple(x.shape)}; they must be uint8 or floats (N, C, H, W)")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"labels are {y.dtype} of shape {tuple(y.shape)}; they must be int64 ({len(x)},)")
    if len(x) == 0:
        raise UserError("there are no images to evaluate on")
    if int(y.min()) < 0:
        raise UserError(f"label {int(y.min())} is negative; labels count from 0")
    if x.is_floating_point():
        low, high = (bound.item() for bound in x.aminmax())  # both NaN where any pixel is
        if low != low:
            row = int(x.isnan().flatten(1).any(1).nonzero()[0])
            raise UserError(f"image {row} has pixels that are not numbers")
        if low < 0 or high > 1:
            raise UserError(
                f"pixels lie between {low:g} and {high:g}; they must lie in [0, 1], with any normalisation inside the "
                "model (or be uint8)"
            )
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")


@contextmanager
def _ready(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Model on the device, in evaluation mode and frozen; strict float32; random generators restored afterwards."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        raise UserError(f"the model has parameters in {kinds.pop()}; evaluation is in float32: call model.float()")
    model.to(device)
    training = {module: module.training for module in model.modules()}
    # FAB's backward pass would otherwise compute the gradients of the weights too.
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    model.requires_grad_(False)
    devices = [device] if device.type == "cuda" else []
    try:
        with float32(device), torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for p in trainable:
            p.requires_grad_()


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _share(flags: Tensor) -> float:
    return flags.sum().item() / len(flags)


def _environment(device: torch.device) -> dict[str, str]:
    from headstart.engine.record import environment  # here, since attacks must not need the training engine to load

    return environment(device)
