"""How far an evaluation has come, on stderr: a live line per attack on a terminal, one finished line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch.utils.hooks import RemovableHandle

from headstart.evaluation.course import Course

REDRAWS = 3
"""A second, at most."""


class AttackProgress:
    """One attack after another; a context manager.

    On a terminal the line moves inside a batch too: the passes through the attacked model are counted.

    Args:
        enabled: False prints nothing.
        console: where to print; stderr where None.
    """

    def __init__(self, enabled: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._console.quiet = self._console.quiet or not enabled
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]}/{task.total} {task.fields[whom]}"),
            TextColumn("{task.fields[where]}"),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(min_width=7)),
            TextColumn("at most {task.fields[bound]:.1%}"),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
            refresh_per_second=REDRAWS,
            speed_estimate_period=120,
            expand=True,
        )
        self._counting: RemovableHandle | None = None

    def __enter__(self) -> AttackProgress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count_no_more()
        self._live.stop()

    def start(self, name: str, total: int, bound: float, course: Course, batch: int) -> None:
        """A new attack on ``total`` images, at most ``batch`` at once; ``bound`` is the accuracy it cannot exceed."""
        self._name, self._total, self._started = name, total, time.perf_counter()
        self._course, self._batch, self._done = course, batch, 0
        self._asked, self._drawn = 0, 0.0
        self._task = self._live.add_task(name, total=total, bound=bound, done=0, whom=course.whom, where="")
        if not self._live.disable:
            self._counting = course.model.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        """Another forward pass of the attacked model, in a batch that is not finished."""
        self._asked += 1
        now = time.monotonic()
        if now - self._drawn >= 1 / REDRAWS:
            self._drawn = now
            inside = self._course.share(self._asked) * min(self._batch, self._total - self._done)
            where = self._course.where(self._asked)
            self._live.update(self._task, completed=self._done + inside, where=where)

    def advance(self, samples: int, bound: float) -> None:
        """``samples`` more are done, and the bound has come down to ``bound``."""
        self._done, self._asked = self._done + samples, 0
        self._live.update(self._task, completed=self._done, done=self._done, bound=bound)

    def finish(self, images: int, bound: float) -> None:
        """The attack is done, on so many images of all processes; without a terminal this prints its one line."""
        self._count_no_more()
        self._live.update(self._task, where="")
        if self._live.disable:
            seconds = time.perf_counter() - self._started
            line = f"{images} images {self._course.whom}, {seconds:.1f} s, accuracy at most {bound:.2%}"
            self._console.print(f"{self._name:<10} {line}", highlight=False, soft_wrap=True)

    def _count_no_more(self) -> None:
        if self._counting is not None:
            self._counting.remove()
            self._counting = None
