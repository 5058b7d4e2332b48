"""What a training will cost, by a few of its updates. Nothing is written, and the images are not all decoded."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from headstart.core import Clock, Passes
from headstart.data import Batch, Found, ImageSet, Loader, TrainingSet, find, in_memory
from headstart.data.images import divide
from headstart.data.streamed import StreamedSet
from headstart.errors import SettingError
from headstart.recipes.recipe import Recipe
from headstart.runs.launch import determinism, explained, make_fabric
from headstart.training.feed import batches
from headstart.training.learner import Learner
from headstart.training.monitor import Monitor
from headstart.training.start import network_for

T = TypeVar("T")

DECODED = 64  # images that are looked at; all others are taken to be like them
FIRST_UPDATES, FIRST_SECONDS = 12, 5.0  # libraries choose algorithms, graphs are recorded
UPDATES, SECONDS = 20, 10.0  # that are timed, whatever is sooner, and at least one


@dataclass(frozen=True)
class Estimate:
    """The cost of a training, measured where it would run.

    Attributes:
        device: where that is.
        parameters: of the network.
        images, validation_images: of the two parts.
        updates: of the weights, in the whole run, or up to max_steps.
        measured: how many of them were timed.
        passes: through the network in those.
        seconds: of one.
        validations: how many there will be.
        validation_seconds: of one.
        memory: bytes, on the device; on a CPU those of the process with its data.
    """

    device: torch.device
    parameters: int
    images: int
    validation_images: int
    updates: int
    measured: int
    passes: Passes
    seconds: float
    validations: int
    validation_seconds: float
    memory: int

    @property
    def total_seconds(self) -> float:
        """Of all updates and validations."""
        return self.updates * self.seconds + self.validations * self.validation_seconds


def estimate(recipe: Recipe, data: Found | None = None) -> Estimate:
    """Make a few updates of a recipe, one process's share of each, and validate once.

    Args:
        data: default the recipe's by name.

    Raises:
        UserError: what ``train`` would raise before its first update.
    """
    processes = recipe.devices * recipe.num_nodes
    alone = replace(
        recipe, devices=1, num_nodes=1, batch_size=recipe.batch_size // processes, sync_batch_norm=False, log="none"
    )
    with determinism(alone.deterministic), explained(recipe, Path()):
        fabric = make_fabric(alone, Path())
        torch.manual_seed(alone.seed)
        train_set, val_set, validation_images = _parts(recipe, data, processes)
        resolved, network = network_for(alone, None, train_set, val_set, resumed=False)
        loader = batches(train_set, resolved, fabric.device, 0, 1)
        if not loader.batches:
            raise SettingError(
                f"batch_size {recipe.batch_size} exceeds the {len(train_set) * processes} training images"
            )
        learner = Learner(resolved, fabric, network, train_set, loader)
        measured, seconds, passes = _updates(learner, loader)
        return Estimate(
            device=fabric.device,
            parameters=sum(p.numel() for p in network.parameters()),
            images=len(train_set) * processes,
            validation_images=validation_images,
            updates=min(learner.updates, recipe.max_steps or learner.updates),
            measured=measured,
            passes=passes,
            seconds=seconds,
            validations=-(-recipe.epochs // recipe.eval_every),
            validation_seconds=_look(learner, val_set) * validation_images / len(val_set) / processes,
            memory=_memory(fabric.device),
        )


def _parts(recipe: Recipe, data: Found | None, processes: int) -> tuple[TrainingSet, ImageSet, int]:
    """A training part of the right size for one process, some images like those of the validation part, its size."""
    found = find(recipe.data, "train", recipe.image_column, recipe.label_column) if data is None else data
    total = recipe.samples or len(found)
    train, val = divide(min(total, len(found)), recipe.val_size, found.name, recipe.validation)
    train, name = train[: len(train) // processes], f"{found.name} (training part)"
    some = in_memory(found, recipe.image_size, min(DECODED, len(found)), recipe.on_bad_image)
    if recipe.image_size is not None and not isinstance(found, ImageSet):
        return StreamedSet(found, train, recipe.image_size, recipe.on_bad_image, name), some, len(val)
    like = torch.arange(len(train)) % len(some)
    return ImageSet(some.images[like], found.labels[train], found.classes, name), some, len(val)


def _updates(learner: Learner, loader: Loader) -> tuple[int, float, Passes]:
    """How many updates were timed, seconds of one, and passes in all of them."""
    clock, device = Clock(updates=learner.updates, epochs=learner.recipe.epochs), learner.fabric.device
    supply = _endless(loader, learner.method.replays)

    def some(most: int, seconds: float) -> int:
        nonlocal clock
        begin, done = time.monotonic(), 0
        while done < most and (not done or time.monotonic() - begin < seconds):
            batch, place = next(supply)
            learner.update(batch, replace(clock, batch=place))
            _wait(device)
            clock = replace(clock, update=min(clock.update + 1, clock.updates - 1))
            done += 1
        return done

    stream = torch.cuda.stream(torch.cuda.Stream(device)) if learner.graphed else None  # type: ignore[no-untyped-call]
    with stream or nullcontext():
        some(FIRST_UPDATES, FIRST_SECONDS)
        before = replace(learner.target.passes)
        done, seconds = _timed(lambda: some(UPDATES, SECONDS), device)
    passes = learner.target.passes
    spent = (now - then for now, then in zip(vars(passes).values(), vars(before).values(), strict=True))
    return done, seconds / done, Passes(*spent)


def _look(learner: Learner, images: ImageSet) -> float:
    """Seconds of a validation on these images: of the network, and of its average where there is one."""
    monitor, device = Monitor(images, learner.fabric.device), learner.fabric.device
    _, seconds = _timed(lambda: monitor.measure(learner.selected, learner.threat), device)
    return seconds * (1 + (learner.average is not None))


def _endless(loader: Loader, replays: int) -> Iterator[tuple[Batch, int]]:
    """The batches of an epoch over and over, each as often as it is replayed, with its place in the epoch."""
    while True:
        for place, batch in enumerate(loader.epoch(0)):
            for _ in range(replays):
                yield batch, place


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What it returns, and the seconds until the device has caught up."""
    _wait(device)
    begin = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
