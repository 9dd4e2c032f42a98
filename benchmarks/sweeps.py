"""What a user waits for around the numbers: a sweep, the same typed again, and its figures."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tasks import spread, timed

SWEEP = ("evaluate", "-m", "experiment=demo", "hydra.sweep.dir=out")
ONE = ("evaluate", "attention=csa", "hydra.run.dir=one")


def sweeps(repetitions: int) -> dict[str, object]:
    """Wall-clock seconds of whole commands on the embedded world, start of Python included.

    A job's overhead is what each job of a finished sweep takes beyond the first.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh = _seconds(folder, *SWEEP, "paths.store=store")
        jobs = len(list(folder.glob("out/*/result.json")))

        def repeated(*command: str) -> list[float]:
            return [_seconds(folder, *command) for _ in range(repetitions)]

        # Not in turns: a job typed by itself is in another W&B group and writes its run anew, and
        # so would each sweep that follows one.
        finished = repeated(*SWEEP, "paths.store=store")
        one = repeated(*ONE, "paths.store=store")
        figures = repeated("report", "store", "--out", "figures")
    again = statistics.median(finished)
    return {
        "finished_sweep_s": spread(finished),
        "finished_sweep_over_fresh": round(again / fresh, 4),
        "overhead_per_job_s": round((again - statistics.median(one)) / (jobs - 1), 4),
        "figures_s": spread(figures),
        "fresh_sweep": {"seconds": round(fresh, 2), "jobs": jobs},
    }


def _seconds(folder: Path, *arguments: str) -> float:
    command = [sys.executable, "-m", "sclip_lab.cli.main", *arguments]

    def call() -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    return timed(call)[0]
