"""How far the methods of the demo are, while they run."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from headstart.runs.folder import RunFolder

LOG = logging.getLogger(__name__)
Running = tuple[Future[dict[str, Any]], int, RunFolder]


def follow(methods: dict[str, Running]) -> None:
    """Show how far each method is until all are done; an error in one ends the demo.

    Args:
        methods: by name, the future of its result, its epochs, and the folder of its run.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {
            m: bars.add_task(m, total=e, stage="waits for a core", start=False) for m, (_, e, _) in methods.items()
        }
        unfinished = dict(methods)
        while unfinished:
            time.sleep(0.2)
            for m, (future, epochs, run) in list(unfinished.items()):
                done = _lines(run.metrics)
                if future.done():
                    del unfinished[m]
                    _finish(bars, tasks[m], m, future.result(), done)
                elif future.running():
                    stage = f"epoch {done + 1}/{epochs}" if done < epochs else "under attack"
                    _update(bars, tasks[m], done, stage)


def _update(bars: Progress, task: TaskID, done: int, stage: str) -> None:
    if not bars.tasks[task].started:
        bars.start_task(task)
    bars.update(task, completed=done, stage=stage)


def _finish(bars: Progress, task: TaskID, method: str, result: dict[str, Any], done: int) -> None:
    _update(bars, task, done, f"AutoAttack accuracy {result['autoattack']:.1%}")
    bars.stop_task(task)
    if bars.disable:
        LOG.info("%s: trained in %.0f s, AutoAttack %.1f%%", method, result["seconds"], 100 * result["autoattack"])


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
