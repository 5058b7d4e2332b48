"""Messages to the user: every module logs below "headstart"; here they become lines on stderr."""

from __future__ import annotations

import logging
import sys


class Messages(logging.Handler):
    """The bare message, whole and on one line of its own.

    stderr is looked up anew each time, since a live progress bar puts itself in its place and prints above the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print it, if this is the first process of the run."""
        if _first_process():
            try:
                print(record.getMessage(), file=sys.stderr)
            except Exception:
                self.handleError(record)


def show_messages() -> None:
    """Print what headstart has to say, from INFO on; a second call adds nothing, a level that was set stays."""
    logger = logging.getLogger("headstart")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not any(isinstance(handler, Messages) for handler in logger.handlers):
        logger.addHandler(Messages())


def _first_process() -> bool:
    """Whether this is the first process of the run, or the only one."""
    if "torch" not in sys.modules:  # nor can there be other processes; loading torch takes seconds
        return True
    from headstart.core import distributed

    return distributed.rank() == 0
