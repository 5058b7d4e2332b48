"""How far an evaluation has come, on stderr: a live line per attack on a terminal, one finished line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "")


class AttackProgress:
    """One attack after another; a context manager.

    Args:
        enabled: False prints nothing.
        console: where to print; stderr where None.
    """

    def __init__(self, enabled: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._console.quiet = self._console.quiet or not enabled
        self._live = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("accuracy at most {task.fields[bound]:.2%}"),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )

    def __enter__(self) -> AttackProgress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def start(self, name: str, total: int, bound: float) -> None:
        """A new attack on ``total`` samples; ``bound`` is the robust accuracy it cannot exceed."""
        self._name, self._total, self._started = name, total, time.perf_counter()
        self._task = self._live.add_task(name, total=total, bound=bound)

    def advance(self, samples: int, bound: float) -> None:
        """``samples`` more are done, and the bound has come down to ``bound``."""
        self._live.update(self._task, advance=samples, bound=bound)

    def finish(self, bound: float) -> None:
        """The attack is done; where there is no terminal this prints its one line."""
        if self._live.disable:
            seconds = time.perf_counter() - self._started
            line = f"{self._name:<10} {self._total} images  {seconds:.1f} s  accuracy at most {bound:.2%}"
            self._console.print(line, highlight=False)
