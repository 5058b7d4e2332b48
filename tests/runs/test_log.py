"""What headstart says, on stderr: bare, whole, once, and only by the first process."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from headstart.core import distributed
from headstart.runs.log import show_messages

Capture = pytest.CaptureFixture[str]
LOG = logging.getLogger("headstart.somewhere")


def test_bare_whole_and_once(capsys: Capture) -> None:
    show_messages()
    show_messages()
    long = "[bold]a path[/bold] " + "x" * 500
    LOG.info("%s: %d of 3", long, 2)
    LOG.debug("for us alone")
    assert capsys.readouterr() == ("", f"{long}: 2 of 3\n")


def test_nothing_unless_asked(capsys: Capture) -> None:
    LOG.info("one thing")
    assert capsys.readouterr() == ("", "")


def test_a_level_that_was_set_stays(capsys: Capture) -> None:
    logging.getLogger("headstart").setLevel(logging.ERROR)
    show_messages()
    LOG.warning("one thing")
    assert capsys.readouterr().err == ""


def test_only_the_first_process_speaks(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    show_messages()
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    LOG.info("one thing")
    assert capsys.readouterr().err == ""


def test_above_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line goes through the bar's console, which draws the bar anew below it."""
    terminal = io.StringIO()
    show_messages()
    with Progress(console=Console(file=terminal, force_terminal=True, width=80)) as bar:
        bar.add_task("train", total=3)
        bar.refresh()
        LOG.info("one thing")
    assert "one thing\n" in terminal.getvalue()
    after = terminal.getvalue().partition("one thing\n")[2]
    assert "train" in after


def test_loads_no_torch() -> None:
    code = (
        "import logging, sys; from headstart.runs.log import show_messages; show_messages()\n"
        "logging.getLogger('headstart.data').info('one thing'); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "one thing\n")
