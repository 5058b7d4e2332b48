"""The attacks of a suite, one after the other, on batches of what is left."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.scores import cross_entropy
from headstart.core import distributed
from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.outcome import Outcome, Round
from headstart.evaluation.precision import float32
from headstart.evaluation.progress import AttackProgress
from headstart.evaluation.resume import Partial, fingerprint
from headstart.evaluation.search import Bfloat16, differs, folded
from headstart.evaluation.suites import ATTACKS, SUITES, BatchAttack, Task
from headstart.evaluation.verdict import Verdict, inside, judge, verdict_of
from headstart.evaluation.warnings import Evidence, warnings_of_forward

CHECKED, FOLDED = 250, 32
"""Images of the first batch on which the model's forward pass is examined, and on which a folded copy must agree."""


@dataclass(frozen=True)
class Plan:
    """The settings of an evaluation, as ``evaluate_model`` explains them; all that decide its result."""

    suite: str
    threat: ThreatModel
    batch_size: int
    seed: int
    search_precision: str


@dataclass(frozen=True)
class Images:
    """N labelled images, from which batches go to the device.

    Attributes:
        x: (N, C, H, W), uint8 or floating point in [0, 1].
        y: int64 (N,).
    """

    x: Tensor
    y: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in fp32 and labels (B,), on the device."""
        images = self.x[rows].to(self.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return images.contiguous(), self.y[rows].to(self.device)


class Attacker:
    """An attack with its verdicts: searched on one version of the model, judged on the model itself.

    Args:
        name: in ``ATTACKS``.
        model: the model that is evaluated.
        task: with the version of the model on which the attack searches.
        tf32: let it search with TF32 products on CUDA.
    """

    def __init__(self, name: str, model: nn.Module, task: Task, tf32: bool) -> None:
        self.name, self.model, self.task, self.tf32 = name, model, task, tf32
        self.exact = task.model is model and not tf32
        self.search = ATTACKS[name].prepare(task)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, seed: int) -> Verdict:
        """Attack images (B, C, H, W) with labels (B,); ``seed`` is that of the batch."""
        with float32(x.device, tf32=self.tf32):
            x_adv = self._search(self.search, x, y, seed)
            believed = None if self.exact else judge(self.task.model, x_adv, y).right
        verdict = judge(self.model, x_adv, y)
        if believed is not None:
            # Where only the version searched on is fooled, the attack has stopped too early.
            denied = (verdict.right & ~believed).nonzero().squeeze(1)
            if len(denied):
                strict = ATTACKS[self.name].prepare(replace(self.task, model=self.model))
                again = self._search(strict, x[denied], y[denied], seed)
                verdict.replace(denied, judge(self.model, again, y[denied]))
        return verdict

    def _search(self, attack: BatchAttack, x: Tensor, y: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)  # of attacks that use the global generators, and of random models
        return inside(self.task.threat, x, attack(x, y, Generator(x.device).manual_seed(seed)))


class Run:
    """One evaluation in progress.

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
        names: the attacks that count, in the order they are run.
        not_run: attacks of the suite that do not apply, with the reason.
        warnings: what the forward pass shows of the model before any attack.
        outcome: what is known of each image.

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
        self.model, self.images, self.plan = model, images, plan
        self.outcome = classify_clean(model, images, plan.batch_size, keep_examples)
        x, y = images.batch(torch.arange(min(len(images), plan.batch_size, CHECKED)))
        self.warnings = warnings_of_forward(model, x, y)
        self.task, self.folded = self._task(x, y, source)
        suite = SUITES[plan.suite].attacks
        self.not_run = {name: why for name in suite if (why := ATTACKS[name].skipped(self.task))}
        self.names = [name for name in suite if name not in self.not_run]
        # FGSM costs two passes, and comparing it with the suite's attacks shows much; it counts only where listed.
        checks = [] if "fgsm" in self.names else ["fgsm"]
        tf32 = plan.search_precision == "tf32"
        self.attackers = {name: Attacker(name, model, self.task, tf32) for name in checks + self.names}
        self.partial = Partial(partial, fingerprint([model, source], [images.x, images.y], asdict(plan)))
        self.partial.restore(self.outcome)

    def _task(self, x: Tensor, y: Tensor, source: nn.Module | None) -> tuple[Task, bool]:
        """What a batch (B, C, H, W) with labels (B,) shows of the model decides on which version attacks search."""
        plan, model = self.plan, self.model
        with torch.no_grad():
            logits = model(x)
            random = differs(logits, model(x))
            alone = not random and not differs(logits[: (len(x) + 1) // 2], model(x[: (len(x) + 1) // 2]))
        copy = folded(model, x[:FOLDED], y[:FOLDED], plan.threat) if alone else None
        queried = copy if copy is not None else model
        if plan.search_precision == "bf16":
            queried = Bfloat16(queried)
        task = Task(queried, plan.threat, self.outcome.evidence.classes, x.device, plan.seed, random, alone, source)
        return task, copy is not None

    def attack_all(self, progress: bool) -> None:
        """Run the attacks that the outcome does not know yet, in order.

        Batches are made of what is left, in the order of the images, and dealt to the processes in turn. The random
        numbers of a batch follow from seed, attack and its place among the attack's batches, so neither a restart nor
        the number of processes changes anything.
        """
        with AttackProgress(progress and distributed.rank() == 0) as display:
            for name, attacker in self.attackers.items():
                if name not in self.outcome.seconds:
                    self._attack(name, attacker, display)
                    self.partial.save(self.outcome)

    def _attack(self, name: str, attacker: Attacker, display: AttackProgress) -> None:
        began = time.perf_counter()
        outcome, counts = self.outcome, name in self.names
        found = Round(self._pool(name), outcome.examples.shape if counts and outcome.examples is not None else None)
        batches = torch.split(found.pool.nonzero().squeeze(1), self.plan.batch_size) if found.pool.any() else ()
        mine = range(distributed.rank(), len(batches), distributed.world_size())
        label, total = name if counts else f"{name} (check)", sum(len(batches[b]) for b in mine)
        display.start(label, total, outcome.bound())
        for b in mine:
            found.add(batches[b], attacker(*self.images.batch(batches[b]), _seed(self.plan.seed, name, b)))
            display.advance(len(batches[b]), outcome.bound(found if counts else None))
        found.gather(self.images.device)
        outcome.add(name, found, counts, time.perf_counter() - began)
        display.finish(outcome.bound())

    def _pool(self, name: str) -> Tensor:
        """bool (N,): the images an attack is run on, those correct under the attacks of its chain that are done."""
        evidence, chain = self.outcome.evidence, ATTACKS[name].chain
        before = [done for done in evidence.left if chain is not None and ATTACKS[done].chain == chain]
        return evidence.left[before[-1]] if before else evidence.clean


@torch.no_grad()
def classify_clean(model: nn.Module, images: Images, size: int, keep_examples: bool) -> Outcome:
    """The outcome before any attack.

    Raises:
        UserError: what the model returns is not finite logits (B, K), K >= 2, for labels below K.
    """
    verdicts, saturated, classes = [], [], 0
    for rows in torch.split(torch.arange(len(images)), size):
        x, y = images.batch(rows)
        logits = model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"the model returns {shape} for {len(x)} images; it must return logits (B, K), K >= 2")
        classes = logits.shape[1]
        if int(y.max()) >= classes:
            raise UserError(f"label {int(y.max())} is outside the model's {classes} classes (0 to {classes - 1})")
        if not bool(logits.isfinite().all()):
            raise UserError("the model's logits of clean images are not all finite; are its weights?")
        verdicts.append(verdict_of(logits, x.cpu() if keep_examples else x.new_empty(0), y))
        saturated.append(cross_entropy(logits.float(), y) == 0)
    right, margin, predicted = (
        torch.cat([getattr(verdict, name) for verdict in verdicts]).cpu() for name in ("right", "margin", "predicted")
    )
    examples = torch.cat([verdict.images for verdict in verdicts]) if keep_examples else None
    evidence = Evidence(classes, clean=right, saturated=torch.cat(saturated).cpu(), robust=right.clone())
    return Outcome(evidence, margin, predicted, examples)


def _seed(seed: int, name: str, batch: int) -> int:
    """63 bits that differ between the batches of all attacks."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {batch}".encode()).digest()[:8], "big") >> 1
