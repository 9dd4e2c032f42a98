"""How long a run takes to end after SIGINT, SIGTERM or SIGHUP, and whether it keeps what is done.

    python -m benchmarks.torture.ends [--times 20] [--jobs 5]

Each run is a process of its own, forked from one that has loaded everything: ``sclip-lab evaluate``
on the embedded world, ended at a random moment of its evaluation. ``--jobs`` ends sweeps as real
processes with ``hydra/launcher=local_jobs``. Prints the table of docs/reliability.md; ends with 1
if a run took more than 2 s, ended with another code or more than one line, or lost what it had
said was finished.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import sclip_lab as lab
import sclip_lab.cli.main
from sclip_lab import results
from sclip_lab.core import signals
from sclip_lab.run import job  # noqa: F401, loaded before any fork

MOST_SECONDS = 2.0
WAIT_SECONDS = 900.0
EVALUATE = [
    "evaluate", "dataset.limit=500", "tracking=disabled", "progress=false", "paths.store=store",
    "hydra.run.dir=run", "hydra.sweep.dir=sweep",
]  # fmt: skip
SWEEP = ["attention=vanilla,csa", "hydra/launcher=local_jobs", "hydra.launcher.shards=2"]


def main() -> int:
    """Run all rows of the table; return 0 if all runs ended as they should, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = random.Random(args.seed)
    lab.load_backbone("patchwork_vit")
    print("| signal | runs | s to the end: median | longest | images kept | wrong |")
    print("|---|---|---|---|---|---|")
    wrong = 0
    rows = [(signum, args.times, EVALUATE) for signum in signals.SIGNALS]
    if args.jobs:
        rows.append((signal.SIGTERM, args.jobs, ["evaluate", "-m", *EVALUATE[1:], *SWEEP]))
    for signum, times, line in rows:
        took, counts, faults = [], [], 0
        for _ in range(times):
            seconds, images, fault = _ended(line, signum, generator.uniform(0, 3))
            took.append(seconds)
            counts.append(images)
            faults += bool(fault)
            if fault:
                print(f"wrong: {fault}", file=sys.stderr, flush=True)
        what = signum.name if line is EVALUATE else f"{signum.name}, two local jobs"
        print(
            f"| {what} | {times} | {statistics.median(took):.2f} | {max(took):.2f} "
            f"| {min(counts)} to {max(counts)} | {faults} |", flush=True,
        )  # fmt: skip
        wrong += faults
    return int(wrong > 0)


def _ended(line: Sequence[str], signum: signal.Signals, after: float) -> tuple[float, int, str]:
    """Start a run, and send it ``signum`` ``after`` seconds after its first images were stored.

    Returns:
        seconds until it was gone, images in the store, and what was wrong.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stderr = folder / "stderr"
        process = _started(line, folder, stderr)
        deadline = time.monotonic() + WAIT_SECONDS
        while not list(folder.glob("store/specs/*/rows-*")):
            if os.waitpid(process, os.WNOHANG)[0]:
                return 0.0, 0, f"ended before it stored anything: {stderr.read_text()[-300:]!r}"
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGTERM)
                return WAIT_SECONDS, 0, "nothing was stored"
            time.sleep(0.02)
        time.sleep(after)
        began = time.monotonic()
        os.kill(process, signum)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        took = time.monotonic() - began
        images = results.load(folder / "store", partial=True)["image"].nunique()
        text = stderr.read_text().strip()
        lines = [one for one in text.splitlines() if "interrupted" in one or "Traceback" in one]
        right = [f"interrupted by {signum.name}; what was finished is in the store"]
        fault = ""
        if status != 128 + signum:
            fault = f"exit code {status}: {text[-300:]}"
        elif took > MOST_SECONDS:
            fault = f"{took:.1f} s"
        elif not images or [one[: len(right[0])] for one in lines] != right:
            fault = f"{images} images, {text[-300:]!r}"
        return took, images, fault


def _started(line: Sequence[str], folder: Path, stderr: Path) -> int:
    """Start a run whose stderr goes to the file ``stderr``; return the process's number."""
    if any("local_jobs" in word for word in line):
        with stderr.open("wb") as err:
            command = [sys.executable, "-m", "sclip_lab.cli.main", *line]
            return subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
            ).pid
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            for number in signals.SIGNALS:  # nohup leaves SIGHUP ignored
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            status = sclip_lab.cli.main.main(list(line))
        finally:
            os._exit(status)
    return child


if __name__ == "__main__":
    raise SystemExit(main())
