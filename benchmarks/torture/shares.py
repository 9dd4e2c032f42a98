"""Share work among processes, each forked from a parent that has loaded everything.

A process that dies, or notes nothing for too long, is one wrong outcome, named by its last note.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

SILENT_SECONDS = 240.0
FORK = multiprocessing.get_context("fork")
_parent: Connection | None = None  # where this process notes what it does


class Share(NamedTuple):
    """A part of the work.

    Attributes:
        name: the part of the torture that the share belongs to.
        run: does the share, and returns counts; ``wrong_cases`` may be a list of texts.
    """

    name: str
    run: Callable[[], dict[str, Any]]


class _Running:
    """A share in a process of its own."""

    def __init__(self, share: Share) -> None:
        self.share, self.note, self.since = share, "", time.monotonic()
        self.notes, parent = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_work, args=(share, parent))
        self.process.start()
        parent.close()

    def counts(self) -> dict[str, Any] | None:
        """What came of the share; None while it runs."""
        ended = not self.process.is_alive()
        try:
            while self.notes.poll():
                note = self.notes.recv()
                if isinstance(note, dict):
                    self.process.join()
                    return note
                self.note, self.since = note, time.monotonic()
        except EOFError:
            ended = True
        hangs = time.monotonic() - self.since > SILENT_SECONDS
        if not ended and not hangs:
            return None
        if hangs:
            os.killpg(self.process.ident or 0, signal.SIGKILL)
        self.process.join()
        kind = "hang" if hangs else "traceback"
        fate = f"{self.share.name} ended with {self.process.exitcode} at: {self.note}"
        return {kind: 1, "wrong_cases": [f"{kind}: {fate}"]}


def _work(share: Share, parent: Connection) -> None:
    global _parent
    os.setpgid(0, 0)
    _parent = parent
    began = time.monotonic()
    counts = share.run()
    parent.send(counts | {"milliseconds": round(1000 * (time.monotonic() - began))})


def say(text: str) -> None:
    """Note what this process does now, as a sign that it does not hang."""
    if _parent is not None:
        _parent.send(text[:2000])


def shared_out(
    shares: Sequence[Share], processes: int, until: float = math.inf
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run shares, ``processes`` at a time.

    Shares that have not begun at the time ``until`` (monotonic) count as ``shares_not_run``.

    Yields:
        the name of each finished share and its counts, with its milliseconds.
    """
    waiting, running = deque(shares), list[_Running]()
    while waiting or running:
        while waiting and time.monotonic() > until:
            yield waiting.popleft().name, {"shares_not_run": 1}
        while waiting and len(running) < processes:
            running.append(_Running(waiting.popleft()))
        time.sleep(0.02)
        for one in list(running):
            if (counts := one.counts()) is not None:
                running.remove(one)
                yield one.share.name, counts
