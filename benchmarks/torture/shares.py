"""Share work among processes, each forked from a parent that has loaded everything.

A process that dies, or notes nothing for too long, is one wrong outcome, named by its last note.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SILENT_SECONDS = 240.0
_words: Path | None = None  # where this process notes what it does


@dataclass
class Share:
    """A part of the work.

    Attributes:
        name: the part of the torture that the share belongs to.
        run: does the share, and returns counts; ``wrong_cases`` may be a list of texts.
    """

    name: str
    run: Callable[[], dict[str, Any]]


@dataclass
class _Running:
    share: Share
    process: int
    result: Path
    words: Path
    since: float


def timed(run: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """``run`` with its milliseconds among the counts."""

    def measured() -> dict[str, Any]:
        began = time.monotonic()
        counts = run()
        return counts | {"milliseconds": round(1000 * (time.monotonic() - began))}

    return measured


def say(text: str) -> None:
    """Note what this process does now, as a sign that it does not hang."""
    if _words is not None:
        _words.write_text(text[:2000], encoding="utf-8", errors="backslashreplace")


def shared_out(
    shares: Sequence[Share], folder: Path, processes: int, until: float = math.inf
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run shares, ``processes`` at a time.

    Shares that have not begun at the time ``until`` (monotonic) count as ``shares_not_run``.

    Yields:
        the name of each finished share and its counts.
    """
    waiting, number = deque(shares), 0
    running: list[_Running] = []
    folder.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        while waiting and time.monotonic() > until:
            yield waiting.popleft().name, {"shares_not_run": 1}
        while waiting and len(running) < processes:
            running.append(_begin(waiting.popleft(), folder / str(number)))
            number += 1
        time.sleep(0.02)
        for one in list(running):
            ended, status = os.waitpid(one.process, os.WNOHANG)
            hangs = not ended and _silent(one) > SILENT_SECONDS
            if hangs:
                os.killpg(one.process, signal.SIGKILL)
                os.waitpid(one.process, 0)
            if ended or hangs:
                running.remove(one)
                yield one.share.name, _result(one, "hang" if hangs else f"died ({status})")


def _begin(share: Share, place: Path) -> _Running:
    global _words
    result, words = place.with_suffix(".json"), place.with_suffix(".words")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            _words = words
            result.write_text(json.dumps(share.run()), encoding="utf-8")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):  # the child may have been faster
        os.setpgid(child, child)
    return _Running(share, child, result, words, time.time())


def _silent(one: _Running) -> float:
    """Seconds since the last note of a process."""
    last = one.words.stat().st_mtime if one.words.exists() else one.since
    return time.time() - last


def _result(one: _Running, fate: str) -> dict[str, Any]:
    if one.result.exists() and fate.startswith("died (0"):
        return dict(json.loads(one.result.read_text(encoding="utf-8")))
    last = one.words.read_text(encoding="utf-8") if one.words.exists() else ""
    kind = "hang" if fate == "hang" else "traceback"
    return {kind: 1, "wrong_cases": [f"{kind}: {one.share.name} {fate} at: {last}"]}
