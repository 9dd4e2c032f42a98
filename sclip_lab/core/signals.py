"""Signals that end a run: raised like Ctrl-C, so that what is finished is written on the way out.

SIGTERM and SIGHUP are how Slurm, a closed shell and a machine that goes down end a process; by
default both kill it without a word.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A terminal and a parent process may both pass the same signal on: within so many seconds two
# count as one.
TOGETHER_SECONDS = 1.0

_received: tuple[int, float] | None = None  # signal, and when


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end.

    Attributes:
        signum: which.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"interrupted by {signal.Signals(signum).name}")

    @property
    def code(self) -> int:
        """The exit code that shells expect."""
        return 128 + self.signum


@contextmanager
def raised(*, always: bool = False) -> Iterator[None]:
    """Within it, SIGINT, SIGTERM and SIGHUP raise `Interrupted`; a second one ends at once.

    Does nothing outside of the main thread. An ignored signal stays ignored (nohup).

    Args:
        always: replace handlers of others too. Otherwise only the default ones are replaced, so
            that those of a notebook or a server stay.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        default = handler in (signal.SIG_DFL, signal.default_int_handler)
        if handler not in (signal.SIG_IGN, _handle) and (default or always):
            before[number] = signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _received = None


def check() -> None:
    """Raise a signal again that a callback has swallowed."""
    if _received is not None:
        raise Interrupted(_received[0])


@contextmanager
def one_line(advice: str = "") -> Iterator[None]:
    """Of a command line: a signal ends the process in one line on stderr, with exit code
    128 + the signal's number.

    Args:
        advice: what to do next, behind the signal's name.
    """
    try:
        with raised(always=True):
            yield
    except KeyboardInterrupt as stop:
        ended = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
        # A progress bar has left its line open.
        lead = "\n" if sys.stderr.isatty() else ""
        print(f"{lead}{ended}{f'; {advice}' if advice else ''}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        # With torch loaded the interpreter's own end takes seconds, which Slurm may not give.
        os._exit(ended.code)


def _handle(signum: int, frame: FrameType | None) -> None:
    global _received
    now = time.monotonic()
    if _received is None:
        _received = signum, now
        raise Interrupted(signum)
    if now - _received[1] > TOGETHER_SECONDS:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
