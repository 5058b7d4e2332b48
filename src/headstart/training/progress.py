"""The progress line of training: rate, time left, last validation."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headstart.core import Clock

REFRESH_SECONDS = 0.5


class TrainingProgress:
    """A live line on a terminal; elsewhere one plain line per validated epoch."""

    def __init__(self, updates: int, batch_size: int, done: int, show: bool) -> None:
        self.console = Console(stderr=True)
        self.live, self.show = show and self.console.is_terminal, show
        self.batch_size, self.pending = batch_size, 0
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} updates"),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.live,
            refresh_per_second=1 / REFRESH_SECONDS,
        )
        self.task = self.bar.add_task("train", total=updates, completed=done, epoch=0, rate=0.0, note="")
        self.refreshed = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.stop()

    def advance(self, clock: Clock, updates: int) -> None:
        """Count one batch."""
        self.pending += updates
        now = time.monotonic()
        if self.live and now - self.refreshed > REFRESH_SECONDS:
            rate = self.pending * self.batch_size / (now - self.refreshed)
            self.bar.update(self.task, advance=self.pending, epoch=f"{clock.epoch + 1}/{clock.epochs}", rate=rate)
            self.pending, self.refreshed = 0, now

    def validated(self, row: dict[str, Any]) -> None:
        """Show the row of a finished epoch."""
        note = f"loss {row['loss']:.3f}"
        if "val" in row:
            note += " validation: clean {clean:.1%} FGSM {fgsm:.1%} PGD-10 {pgd:.1%}".format(**row["val"])
        if self.live:
            self.bar.update(self.task, note=note)
        elif self.show:
            self.console.print(f"epoch {row['epoch']}: {note}", highlight=False)
