"""Robust accuracy under a suite of attacks, and the reasons there may be not to trust it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.core import distributed
from headstart.core.threat import ThreatModel
from headstart.errors import UserError, unknown
from headstart.evaluation.precision import check_search_precision, float32
from headstart.evaluation.resume import checksum
from headstart.evaluation.run import Images, Plan, Run
from headstart.evaluation.suites import ATTACKS, SUITES, Suite
from headstart.evaluation.warnings import warnings_of_attacks, warnings_of_subset
from headstart.runs.environment import environment
from headstart.runs.files import save_weights

__all__ = ["ATTACKS", "PER_IMAGE", "SUITES", "Evaluation", "Suite", "evaluate_model"]

CUDA_BATCH, CPU_BATCH = 1000, 250
PER_IMAGE = ("broken_by", "margin", "predicted")
"""Fields of an ``Evaluation`` with one entry per image, which tables over many evaluations leave out."""


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate_model``. Accuracies are fractions of all ``n`` images.

    Attributes:
        suite: name of the suite.
        n: number of images.
        images: checksum of their pixels and labels, by which evaluations on the same images are known.
        epsilon, norm: the threat model; epsilon in pixel fractions.
        clean: accuracy without attack.
        robust: share of images correct without attack and under every attack of the suite.
        attacks: accuracy by attack. Those of a chain, such as AutoAttack's, are each run on what the ones before left,
            and theirs is the accuracy that remains, as AutoAttack reports it. The others are each run on all images
            correct when clean, and theirs is the accuracy under that attack alone.
        settings: what each attack was run with, in words.
        not_run: attacks of the suite that do not apply, with the reason.
        warnings: reasons not to trust ``robust``, one sentence each.
        broken_by: for each image the attack that broke it first, "clean" where the model was wrong without
            attack, None where it is robust.
        margin: for each image max_{j != y} z_j - z_y in float32 of the worst example that any attack found, the image
            itself included: positive where the model is fooled; None where a logit was not finite.
        predicted: for each image the class predicted for that example.
        precision: of the attacks' search and of the verdicts.
        folded: the attacks searched on a copy of the model with batch-norm folded into its convolutions.
        batch_size, seed: which images share a batch, and all random numbers, follow from these.
        processes: number of processes that shared the work.
        attack_seconds: wall time by attack.
        seconds: wall time, that of interrupted evaluations included as far as it led to results.
        environment: device and versions.
    """

    suite: str
    n: int
    images: str
    epsilon: float
    norm: str
    clean: float
    robust: float
    attacks: dict[str, float]
    settings: dict[str, str]
    not_run: dict[str, str]
    warnings: list[str]
    broken_by: list[str | None]
    margin: list[float | None]
    predicted: list[int]
    precision: str
    folded: bool
    batch_size: int
    seed: int
    processes: int
    attack_seconds: dict[str, float]
    seconds: float
    environment: dict[str, str]

    def to_json(self, per_image: bool = True) -> dict[str, Any]:
        """All fields, of types that JSON knows; without those that have an entry per image where not asked for."""
        return {name: value for name, value in asdict(self).items() if per_image or name not in PER_IMAGE}


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
    search_precision: str = "fp32",
    transfer_from: nn.Module | None = None,
    partial: Path | None = None,
    save_examples: Path | None = None,
) -> Evaluation:
    """Attack the model with every attack of a suite.

    An attack's word is not taken: what it returns is projected onto the threat model again and classified in
    strict float32 by the model as it was given before it counts. The model is evaluated in evaluation mode with its
    parameters frozen, both restored at the end; the global random generators are left as they were.

    Where several processes of one group call this alike, they share the work and get the same result.

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
        search_precision: let the attacks search with reduced matrix products, several times faster: "tf32" on CUDA,
            or "bf16". Verdicts stay in float32, and what only the search takes for broken is attacked again.
        transfer_from: a second model for suite "full", whose adversarial examples are tried on the first.
        partial: .safetensors file that keeps finished attacks until the evaluation is complete; an evaluation of the
            same model, data and settings that finds it goes on from there.
        save_examples: .safetensors file for the worst example of each image: ``x_adv`` fp32 (N, C, H, W), ``y`` and
            ``index`` int64 (N,).

    Raises:
        UserError: unknown suite; images, labels, model output or model that do not fit the above; too few classes
            for AutoAttack; a batch that does not fit the memory of the device; a file that cannot be written.
    """
    began = time.perf_counter()
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    _check_data(x, y, batch_size)
    device = torch.device(device) if device is not None else _device_of(model)
    check_search_precision(search_precision, device)
    size = batch_size or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH)
    plan = Plan(suite, threat, size, seed, search_precision)
    if transfer_from is not None and "transfer" not in SUITES[suite].attacks:
        raise UserError(f"transfer_from is for suite 'full'; suite {suite!r} has no transfer attack")
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with _ready(model, device), _ready(transfer_from, device), forked:
        torch.manual_seed(seed)
        try:
            keep = save_examples is not None
            run = Run(model, Images(x, y, device), plan, source=transfer_from, partial=partial, keep_examples=keep)
            earlier = sum(run.outcome.seconds.values())
            run.attack_all(progress)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has not enough memory for batches of {size}: try batch_size={max(1, size // 2)}"
            ) from error
    if save_examples is not None and distributed.rank() == 0:
        _save_examples(save_examples, run)
    run.partial.remove()
    return _record(run, warnings_of_subset(len(x), total), earlier + time.perf_counter() - began)


def _record(run: Run, subset: list[str], seconds: float) -> Evaluation:
    evidence, plan = run.outcome.evidence, run.plan
    caveat, reduced = SUITES[plan.suite].caveat, plan.search_precision
    return Evaluation(
        suite=plan.suite,
        n=len(run.images),
        images=checksum([run.images.x, run.images.y]),
        epsilon=plan.threat.epsilon,
        norm=plan.threat.norm,
        clean=_share(evidence.clean),
        robust=_share(evidence.robust),
        attacks={name: _share(evidence.left[name]) for name in run.names},
        settings={name: ATTACKS[name].settings(run.task) for name in run.names},
        not_run=run.not_run,
        warnings=[*([caveat] if caveat else []), *subset, *run.warnings, *warnings_of_attacks(evidence)],
        broken_by=run.outcome.broken_by(run.names),
        margin=[value if math.isfinite(value) else None for value in run.outcome.margin.tolist()],
        predicted=run.outcome.predicted.tolist(),
        precision="float32" if reduced == "fp32" else f"{reduced} search, float32 verdicts",
        folded=run.folded,
        batch_size=plan.batch_size,
        seed=plan.seed,
        processes=distributed.world_size(),
        attack_seconds={name: run.outcome.seconds[name] for name in run.names},
        seconds=seconds,
        environment=environment(run.images.device),
    )


def _save_examples(path: Path, run: Run) -> None:
    assert run.outcome.examples is not None
    y = run.images.y
    tensors = {"x_adv": run.outcome.examples, "y": y, "index": torch.arange(len(y))}
    threat = run.plan.threat
    save_weights(path, tensors, {"suite": run.plan.suite, "epsilon": str(threat.epsilon), "norm": threat.norm})


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
def _ready(model: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Model on the device, in evaluation mode and frozen, restored afterwards; strict float32."""
    if model is None:
        yield
        return
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        raise UserError(f"the model has parameters in {kinds.pop()}; evaluation is in float32: call model.float()")
    model.to(device)
    training = {module: module.training for module in model.modules()}
    # FAB's backward pass would otherwise compute the gradients of the weights too.
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    model.requires_grad_(False)
    try:
        with float32(device):
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
