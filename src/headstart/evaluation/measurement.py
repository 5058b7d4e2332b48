"""The attacks of a suite, one after the other, on batches of what is left."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from headstart.attacks.autoattack import Slot
from headstart.attacks.scores import cross_entropy
from headstart.core import distributed
from headstart.core.memory import reuse_memory
from headstart.errors import DataError, WeightsError
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.course import course_of
from headstart.evaluation.estimate import duration_of, pace_of
from headstart.evaluation.gradients import Gradients, examine
from headstart.evaluation.outcome import Evidence, Outcome, Round
from headstart.evaluation.pilot import search_precision
from headstart.evaluation.plan import Images, Plan, dealt
from headstart.evaluation.precision import float32
from headstart.evaluation.probe import Probe, probe
from headstart.evaluation.progress import AttackProgress
from headstart.evaluation.resume import Partial, fingerprint
from headstart.evaluation.running import Running
from headstart.evaluation.search import Bfloat16, folded
from headstart.evaluation.suites import ATTACKS, SUITES, Task
from headstart.evaluation.verdict import verdict_of
from headstart.evaluation.warnings import warnings_of_forward, warnings_of_gradients

logger = logging.getLogger(__name__)

CHECKED, FOLDED = 250, 32
"""Images of the first batch on which the model's forward pass is examined, and on which a folded copy must agree."""


@contextmanager
def ready(model: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Inside, the model is on the device, in evaluation mode and frozen, in strict float32; restored afterwards.

    Raises:
        WeightsError: parameters of another type.
    """
    if model is None:
        yield
        return
    reuse_memory(device)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        raise WeightsError(f"the model has parameters in {kinds.pop()}; evaluation is in float32: call model.float()")
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


class Measurement:
    """The attacks of a suite on one model and its images, in progress.

    Args:
        model: ready: on the device, in evaluation mode and frozen; so is ``source``.
        images: what it is attacked on.
        plan: the settings.
        source: a second model, for the transfer attack.
        partial: file for the finished attacks.
        keep_examples: keep the worst example of each image.

    Attributes:
        task: what the attacks are up against.
        folded: they search on a copy with batch-norm folded into the convolutions.
        precision: they search in it; what was asked for, or what the first images showed.
        names: the attacks that count, in the order they are run.
        not_run: attacks of the suite that do not apply, with the reason.
        gradients: what finite differences show of the gradient; None where they would mean nothing.
        warnings: what the model shows before any attack.
        outcome: what is known of each image.
        began: when it began, by ``time.perf_counter``, as if it had never been interrupted.

    Raises:
        UserError: see ``classify_clean``; an attack that cannot be run on such a model.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        plan: Plan,
        *,
        source: nn.Module | None = None,
        partial: Path | None = None,
        keep_examples: bool = False,
    ) -> None:
        self.began = time.perf_counter()
        self.model, self.images, self.plan = model, images, plan
        self.outcome = classify_clean(model, images, plan.batch_size, keep_examples)
        x, y = images.batch(torch.arange(min(len(images), plan.batch_size, CHECKED)))
        self.slot = Slot()
        probed = probe(model, x, y)
        self.task, self.folded, self.precision = self._task(x, y, probed, source)
        self.gradients = self._gradients(x, y, probed)
        self.warnings = [*warnings_of_forward(probed), *warnings_of_gradients(self.gradients, self.precision)]
        suite = SUITES[plan.suite].attacks
        self.not_run = {name: why for name in suite if (why := ATTACKS[name].skipped(self.task))}
        self.names = [name for name in suite if name not in self.not_run]
        # FGSM costs two passes, and comparing it with the suite's attacks shows much; it counts only where listed.
        checks = [] if "fgsm" in self.names else ["fgsm"]
        tf32 = self.precision == "tf32"
        self.attackers = {name: Attacker(name, model, self.task, tf32) for name in checks + self.names}
        self.partial = Partial(partial, fingerprint([model, source], [images.x, images.y], asdict(plan)))
        self.partial.restore(self.outcome)
        self.began -= sum(self.outcome.seconds.values())

    def _task(self, x: Tensor, y: Tensor, probed: Probe, source: nn.Module | None) -> tuple[Task, bool, str]:
        """What a batch (B, C, H, W) with labels (B,) shows of the model decides on which version attacks search."""
        plan, model = self.plan, self.model
        copy = folded(model, x[:FOLDED], y[:FOLDED], plan.threat) if probed.alone else None
        queried = copy if copy is not None else model
        judge = model if copy is not None or plan.search_precision != "fp32" else None
        classes, random, alone = self.outcome.evidence.classes, probed.random, probed.alone
        task = Task(queried, plan.threat, classes, x.device, plan.seed, random, alone, source, judge, self.slot)
        precision = plan.search_precision
        if precision == "auto":
            precision = search_precision(plan.suite, task, x, y)
        if precision == "bf16":
            task = replace(task, model=Bfloat16(queried))
        return task, copy is not None, precision

    def _gradients(self, x: Tensor, y: Tensor, probed: Probe) -> Gradients | None:
        """What finite differences show; they mean nothing where images share an answer or chance has a say."""
        plan, tf32 = self.plan, self.precision == "tf32"
        if not probed.alone:
            return None
        return examine(self.model, self.task.model, x, y, plan.threat, tf32=tf32, seed=plan.seed)

    def attack_all(self, progress: bool) -> None:
        """Run the attacks that the outcome does not know yet, in order.

        Batches are made of what is left, in the order of the images (``dealt``), and the processes take them in turn.
        The random numbers of a batch follow from seed, attack and its place among the attack's batches, so neither a
        restart nor the number of processes changes anything.
        """
        if progress and distributed.rank() == 0:
            self._foretell()
        with AttackProgress(progress and distributed.rank() == 0) as display:
            for name, attacker in self.attackers.items():
                if name not in self.outcome.seconds:
                    self._attack(name, attacker, display)

    def _foretell(self) -> None:
        """Say how long the attacks will take that are not done yet."""
        names = [name for name in self.names if name not in self.outcome.seconds]
        right = self.outcome.evidence.clean.nonzero().squeeze(1)
        if names and len(right):
            batch = self.images.batch(right[: self.plan.batch_size])
            pace, size = pace_of(self.task.model, *batch), self.plan.batch_size
            expected = duration_of(names, len(right), pace, self.task.classes, size, distributed.world_size())
            logger.info(f"{self.plan.suite} on {len(self.images):,} images: {expected}")

    def _attack(self, name: str, attacker: Attacker, display: AttackProgress) -> None:
        began = time.perf_counter()
        outcome, counts = self.outcome, name in self.names
        found = Round(self._pool(name), outcome.examples.shape if counts and outcome.examples is not None else None)
        batches = dealt(found.pool.nonzero().squeeze(1), self.plan.batch_size)
        mine = range(distributed.rank(), len(batches), distributed.world_size())
        sizes = [len(rows) for rows in batches]
        label, total = name if counts else f"{name} (check)", sum(sizes[b] for b in mine)
        display.start(label, total, outcome.bound(), course_of(name, attacker.task), max(sizes, default=0))
        running = Running(self.partial.path, f"{self.partial.mark} {name} {sizes}")
        running.restore(found)
        for b in mine:
            if b not in running.done:
                self.slot.state, self.slot.keep = running.state_of(b), partial(running.keep, b, found)
                found.add(batches[b], attacker(*self.images.batch(batches[b]), _seed(self.plan.seed, name, b)))
                running.finish(b, found)
            display.advance(sizes[b], outcome.bound(found if counts else None))
        found.gather(self.images.device)
        outcome.add(name, found, counts, time.perf_counter() - began)
        self.partial.save(outcome)
        running.remove()
        display.finish(sum(sizes), outcome.bound())

    def _pool(self, name: str) -> Tensor:
        """bool (N,): the images an attack is run on, those correct under the attacks of its chain that are done."""
        evidence, chain = self.outcome.evidence, ATTACKS[name].chain
        before = [done for done in evidence.left if chain is not None and ATTACKS[done].chain == chain]
        return evidence.left[before[-1]] if before else evidence.clean


@torch.no_grad()
def classify_clean(model: nn.Module, images: Images, size: int, keep_examples: bool) -> Outcome:
    """The outcome before any attack.

    Raises:
        WeightsError: what the model returns is not finite logits (B, K), K >= 2.
        DataError: a label is not below K.
    """
    verdicts, saturated, classes = [], [], 0
    for rows in torch.split(torch.arange(len(images)), size):
        x, y = images.batch(rows)
        logits = model(x)
        _check_logits(logits, y)
        classes = logits.shape[1]
        verdicts.append(verdict_of(logits, x.cpu() if keep_examples else x.new_empty(0), y))
        saturated.append(cross_entropy(logits.float(), y) == 0)
    right, margin, predicted = (
        torch.cat([getattr(verdict, name) for verdict in verdicts]).cpu() for name in ("right", "margin", "predicted")
    )
    examples = torch.cat([verdict.images for verdict in verdicts]) if keep_examples else None
    evidence = Evidence(classes, clean=right, saturated=torch.cat(saturated).cpu(), robust=right.clone())
    return Outcome(evidence, margin, predicted, examples)


def _check_logits(logits: object, y: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WeightsError(f"the model returns {shape} for {len(y)} images; it must return logits (B, K), K >= 2")
    classes = logits.shape[1]
    if int(y.max()) >= classes:
        raise DataError(f"label {int(y.max())} is outside the model's {classes} classes (0 to {classes - 1})")
    if not bool(logits.isfinite().all()):
        raise WeightsError("the model's logits of clean images are not all finite; are its weights?")


def _seed(seed: int, name: str, batch: int) -> int:
    """63 bits that differ between the batches of all attacks."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {batch}".encode()).digest()[:8], "big") >> 1
