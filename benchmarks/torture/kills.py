"""Processes that die while they write: at every point at which something changes on the disk, at
random times, beside each other, with a full disk and with one that cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401, before any fork: a child would import it anew each time

from benchmarks.torture import shares
from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.store import Store

IMAGES = [f"photo {number}" for number in range(6)]
LIMIT_SECONDS = 60
KILLED = 77  # the exit status of a process that was made to die


@dataclass(frozen=True)
class Cell:
    """A cell as the store knows it, with numbers that follow from its name."""

    name: str

    @property
    def identity(self) -> dict[str, str]:
        return {"attention": self.name}

    @property
    def key(self) -> str:
        return digest(self.identity)

    def record(self) -> dict[str, Any]:
        parts = ("attention", "backbone", "dataset", "protocol")
        return {
            "key": self.key,
            "identity": self.identity,
            "label": self.name,
            "names": {part: self.name if part == "attention" else part for part in parts},
            "config": {part: {"digest": part} for part in parts},
            "class_names": ["sky", "grass"],
            "images": IMAGES,
            "created": self.name,
        }

    def rows(self, image: str) -> dict[str, Any]:
        pixels = [len(self.name) * 100 + IMAGES.index(image), 7]
        return {"image": image, "true": [0, 1], "predicted": [0, 0], "pixels": pixels}


CELLS = [Cell(f"variant {letter}") for letter in "abc"]


def work(root: Path, done: Callable[[str], object] = lambda line: None) -> None:
    """Do what an evaluation does but its arithmetic: write what is missing, two images at a time.
    ``done`` gets a line, key and name, for each image once it is stored."""
    store = Store(root)
    for cell in CELLS:
        store.open(cell)
    for cell in CELLS:
        finished, measured = store.done(cell), store.done(cell, "diagnostics")
        missing = [name for name in IMAGES if name not in finished]
        for start in range(0, len(missing), 2):
            chunk = missing[start : start + 2]
            store.append(cell, [cell.rows(name) for name in chunk])
            for name in chunk:
                done(f"{cell.key}\t{name}\n")
        for name in IMAGES[:2]:
            if name not in measured:
                values = {"image": name, "measure": ["entropy"], "value": [0.5]}
                store.append(cell, [values], "diagnostics")
            place = root, picture_files.PREDICTION, cell.key, name
            if not picture_files.has(*place):
                picture_files.save(*place, prediction=np.zeros((4, 4), np.uint8))
        store.compact(cell)
        store.compact(cell, "diagnostics")


def state(root: Path) -> dict[str, Any]:
    """What a finished store holds, to be compared."""
    frame = results.load(root)
    counted = frame.groupby(["spec", "image", "true"], observed=True)["pixels"]
    measured = results.diagnostics(root)
    return {
        "pixels": int(frame["pixels"].sum()),
        "images": int(frame.groupby("spec", observed=True)["image"].nunique().sum()),
        "doubled": int((counted.size() > 1).sum() + (measured.groupby(["spec", "image"],
                       observed=True).size() > 1).sum()),
        "measured": len(measured),
        "pictures": len(list(root.glob("specs/*/pictures/*.npz"))),
        "temporary": len(list(root.rglob(".*.tmp"))),
    }  # fmt: skip


def forked(task: Callable[[Callable[[str], object]], object], seconds: float = LIMIT_SECONDS,
           kill_after: float | None = None) -> tuple[int, str]:  # fmt: skip
    """Run a task in a process of its own.

    Returns:
        its exit status (negative: the signal that ended it; -1000: it hung), and its output.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        code = 1
        try:
            task(lambda line: os.write(write_end, line.encode()))
            code = 0
        except BaseException as error:
            os.write(write_end, f"{type(error).__name__}: {error}".encode())
        os._exit(code)
    os.close(write_end)
    end = time.monotonic() + (seconds if kill_after is None else kill_after)
    status = None
    while status is None and time.monotonic() < end:
        ended, raw = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw) if ended else None
        if not ended:
            time.sleep(0.002)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        status = -1000 if kill_after is None else -signal.SIGKILL
    with os.fdopen(read_end, "rb") as pipe:
        return status, pipe.read().decode(errors="replace")


def nothing(root: Path) -> None:
    """Leave the store as it is: not there yet."""


def die_at(point: int) -> list[int]:
    """Make this process end at the ``point``-th time that it touches the disk. Return a list of one
    number, which counts these times."""
    count = [0]

    def tick() -> None:
        count[0] += 1
        if count[0] == point:
            os._exit(KILLED)

    def around(name: str) -> None:
        original = getattr(os, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            tick()
            result = original(*args, **kwargs)
            tick()
            return result

        setattr(os, name, wrapped)

    def write_bytes(path: Path, content: bytes) -> int:
        tick()
        with open(path, "wb") as file:
            tick()
            file.write(content[: len(content) // 2])
            file.flush()
            tick()
            file.write(content[len(content) // 2 :])
        tick()
        return len(content)

    for name in ("replace", "link", "unlink", "fsync", "mkdir"):
        around(name)
    Path.write_bytes = write_bytes  # type: ignore[method-assign,assignment]
    Path.write_text = lambda path, text, **_: write_bytes(path, text.encode())  # type: ignore
    return count


def recovered(root: Path, acknowledged: str, expected: dict[str, Any]) -> dict[str, int]:
    """Go on where a killed process stopped, and count what is wrong then."""

    def finish(say: Callable[[str], object]) -> None:
        for path in root.rglob(".*.tmp"):  # so old that `Store` takes their process for dead
            os.utime(path, (0, 0))
        store = Store(root)
        stored = {(cell.key, name) for cell in CELLS for name in store.done(cell)}
        promised = {tuple(line.split("\t")) for line in acknowledged.splitlines() if "\t" in line}
        work(root)
        say(json.dumps([len(promised - stored), state(root)]))

    status, output = forked(finish)
    if status != 0:
        return {"lost": 0, "doubled": 0, "wrong": 1}
    images_lost, final = json.loads(output)
    return {
        "lost": images_lost,
        "doubled": final["doubled"],
        "wrong": int(final != expected),
    }


def half(root: Path) -> None:
    """Make a store as an earlier version or a killed process leaves it: several files per cell, an
    image that two of them count, a damaged file of rows and a damaged spec.json."""
    store = Store(root)
    for cell in CELLS:
        store.open(cell)
        for start in (0, 1, 3):
            store.append(cell, [cell.rows(name) for name in IMAGES[start : start + 2]])
    damaged = sorted(store.directory(CELLS[0]).glob("rows-*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"not wrote")
    (store.directory(CELLS[1]) / "spec.json").write_text("{")


def points(folder: Path, before: Callable[[Path], None] = nothing) -> int:
    """How often `work` touches the disk.

    Args:
        folder: for the store.
        before: makes the store that the work finds.
    """

    def counted(say: Callable[[str], object]) -> None:
        with _store(folder) as root:
            before(root)
            count = die_at(-1)
            work(root)
            say(str(count[0]))

    return int(forked(counted)[1])


def at_points(
    folder: Path, chosen: Sequence[int], before: Callable[[Path], None] = nothing
) -> dict[str, int]:
    """Kill `work` at each of these points, and go on after it; return counts. See `points`."""
    expected = _undisturbed(folder, before)
    total = {"kill_points": 0, "lost": 0, "doubled": 0, "wrong": 0}
    for point in chosen:
        shares.say(f"killed at point {point}")
        with _store(folder) as root:

            def killed(say: Callable[[str], object], point: int = point, root: Path = root) -> None:
                before(root)
                die_at(point)
                work(root, say)

            status, output = forked(killed)
            # A thread syncs files, so `work` may end one point early, and is not killed then.
            _add(total, {"kill_points": int(status == KILLED), **recovered(root, output, expected)})
            total["wrong"] += status not in (KILLED, 0)
    return total


def at_random(folder: Path, times: int, generator: random.Random) -> dict[str, int]:
    """Kill `work` by SIGKILL at random times, and go on after it; return counts."""
    expected = _undisturbed(folder)
    began = time.monotonic()
    forked(lambda say: work(folder / "timed", say))
    usual = time.monotonic() - began
    total = {"random_kills": 0, "lost": 0, "doubled": 0, "wrong": 0}
    for number in range(times):
        shares.say(f"killed at random, {number}")
        with _store(folder) as root:
            after = generator.uniform(0.0, usual)
            _, output = forked(lambda say, root=root: work(root, say), kill_after=after)  # type: ignore[misc]
            _add(total, {"random_kills": 1, **recovered(root, output, expected)})
    return total


def together(folder: Path, rounds: int, writers: int = 3) -> dict[str, int]:
    """Run several writers on one store at the same time; return counts."""
    expected = _undisturbed(folder)
    total = {"rounds_of_writers": 0, "lost": 0, "doubled": 0, "wrong": 0}
    for number in range(rounds):
        shares.say(f"round {number} of writers")
        with _store(folder) as root:
            children = []
            for _ in range(writers):
                child = os.fork()
                if child == 0:
                    with contextlib.suppress(BaseException):
                        work(root)
                        os._exit(0)
                    os._exit(1)
                children.append(child)
            failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
            _add(total, {"rounds_of_writers": 1, **recovered(root, "", expected)})
            total["wrong"] += failed
    return total


def without_room(folder: Path) -> dict[str, Any]:
    """Run `work` on a full disk, then on a read-only one: a file system of 40 kB in memory."""
    place = folder / "small"
    place.mkdir()
    if not _run("mount", "-t", "tmpfs", "-o", "size=40k,nr_inodes=400", "none", str(place)):
        return {"skipped": "mounting a file system needs root"}
    root, expected, wrong = place / "store", _undisturbed(folder), 0
    try:
        status, output = forked(lambda say: work(root, say))
        wrong += int(status != 1 or "LabError: cannot write" not in output)
        _run("mount", "-o", "remount,size=10m,nr_inodes=4000", str(place))
        wrong += recovered(root, output, expected)["wrong"]
        _run("mount", "-o", "remount,ro", str(place))
        status, output = forked(lambda say: work(root, say))  # finished: needs no writing
        wrong += int(status != 0)
        status, output = forked(lambda say: Store(root).open(Cell("new")))
        wrong += int(status != 1 or "LabError: cannot write" not in output)
    finally:
        _run("umount", str(place))
    return {"disk_full_and_read_only": 4, "wrong": wrong}


def _undisturbed(folder: Path, before: Callable[[Path], None] = nothing) -> dict[str, Any]:
    """The state of a store that nothing happened to."""

    def whole(say: Callable[[str], object]) -> None:
        root = Path(tempfile.mkdtemp(dir=folder)) / "store"
        before(root)
        work(root)
        say(json.dumps(state(root)))

    status, output = forked(whole)
    if status != 0:
        raise LabError(f"the store's work fails by itself: {output}")
    return dict(json.loads(output))


@contextlib.contextmanager
def _store(folder: Path) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir=folder)) / "store"
    yield root
    shutil.rmtree(root.parent, ignore_errors=True)


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for key, value in more.items():
        total[key] += value


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
