"""Signals that end a run raise an error, as Ctrl-C does, so that finished results are written.

Slurm, a closing shell and a machine that shuts down send SIGTERM or SIGHUP. By default both kill a
process at once.
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
# A terminal and a parent process may both pass on one signal: two signals within so many seconds
# count as one.
TOGETHER_SECONDS = 1.0

_received: tuple[int, float] | None = None  # the first signal and its time


class Interrupted(KeyboardInterrupt):
    """A signal, number ``signum``, ended the run."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"interrupted by {signal.Signals(signum).name}")

    @property
    def code(self) -> int:
        """The exit code that shells expect."""
        return 128 + self.signum


@contextmanager
def raised(*, always: bool = False) -> Iterator[None]:
    """In this context SIGINT, SIGTERM and SIGHUP raise `Interrupted`; a second one kills.

    Outside of the main thread nothing changes. A signal that is ignored (nohup) stays ignored.

    Args:
        always: replace every handler. Otherwise only Python's default handlers are replaced, and
            those of a notebook or a server stay.
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
    """Raise `Interrupted` again if a callback caught it and went on."""
    if _received is not None:
        raise Interrupted(_received[0])


@contextmanager
def one_line(advice: str = "") -> Iterator[None]:
    """In this context a signal ends the process with one line on stderr.

    The line is the signal's name and ``advice``, what the user can do next. The exit code is 128 +
    the signal's number.
    """
    try:
        with raised(always=True):
            yield
    except KeyboardInterrupt as stop:
        interrupted = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
        lead = "\n" if sys.stderr.isatty() else ""  # a progress bar has left its line open
        print(f"{lead}{interrupted}{f'; {advice}' if advice else ''}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        # With torch loaded Python takes seconds to end, and Slurm may kill it meanwhile.
        os._exit(interrupted.code)


def _handle(signum: int, frame: FrameType | None) -> None:
    global _received
    now = time.monotonic()
    if _received is None:
        _received = signum, now
        raise Interrupted(signum)
    if now - _received[1] > TOGETHER_SECONDS:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
