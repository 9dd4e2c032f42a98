"""Run one function on numbered shards by submitit: jobs of Slurm, or processes of this machine."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sclip_lab.core import signals
from sclip_lab.core.errors import LabError
from sclip_lab.core.values import check_arguments, within

log = logging.getLogger(__name__)
T = TypeVar("T")

QUEUE_SECONDS = 15.0  # between two looks at Slurm's queue
# A file that another node has written may become visible late on a shared file system.
VISIBLE_SECONDS = 60.0
LAST_LINES = 12
# Cancelled local jobs have so long to write what is finished before they are killed.
ENDING_SECONDS = 1.5


@dataclass(frozen=True)
class Resources:
    """What every job gets.

    Attributes:
        executor: slurm; local: processes of this machine; debug: this process, one after another.
        timeout_min: minutes after which a job is stopped.
        cpus_per_task: cores of a job, and threads of torch.
        gpus_per_node: GPUs of a job. Local jobs take turns on those that are visible here.
        mem_gb, partition, account: for Slurm alone; None: the cluster's default.
        setup: shell lines that run before the job.
        additional: for Slurm alone: further sbatch options by name, such as ``{"gres": "gpu:1"}``.
    """

    executor: Literal["slurm", "local", "debug"]
    timeout_min: int = 60
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    setup: Sequence[str] | None = None
    additional: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_arguments(Resources, vars(self), "hydra.launcher.")
        for name, least in (("timeout_min", 1), ("cpus_per_task", 1), ("gpus_per_node", 0)):
            within(f"hydra.launcher.{name}", getattr(self, name), least)


def run(
    function: Callable[[int], T], count: int, folder: str | Path, resources: Resources
) -> list[T]:
    """Call ``function(0)`` to ``function(count - 1)``, each in a job of its own, and wait for all.

    Jobs run in this process's working directory. When waiting is interrupted, they are cancelled.

    Args:
        function: pickle must be able to write it and what it returns.
        folder: for submitit's files and the jobs' logs; all nodes have to see it.

    Returns:
        the results in order.

    Raises:
        LabError: submitit is missing, a job is refused, or jobs failed. The message names the
            failed jobs and their logs, with the last lines of the first log. All other jobs have
            run to their end.
    """
    executor = _executor(folder, resources)
    task: Callable[[int], T] = function
    if resources.executor != "debug":
        gpus = _local_gpus() if resources.executor == "local" and resources.gpus_per_node else []
        task = _Task(function, os.getcwd(), resources, gpus)
    jobs: list[Any] = []
    try:
        try:
            jobs = executor.map_array(task, range(count))
        except (RuntimeError, OSError) as error:
            raise LabError(f"{resources.executor} does not take the job: {error}") from error
        if resources.executor != "debug":
            names = ", ".join(job.job_id for job in jobs)
            log.info("waiting for %d jobs (%s); logs in %s", count, names, executor.folder)
        failures = _failures(jobs, resources.executor)
    except BaseException:  # Ctrl-C above all
        _cancel(jobs)
        raise
    if failures:
        raise LabError(_report(failures, count))
    return [job.result() for job in jobs]


def _cancel(jobs: Sequence[Any]) -> None:
    """End all jobs. Jobs of this machine get SIGTERM, which submitit passes on, and a moment to
    write what is finished. Other jobs use submitit's cancel, which prints a traceback."""
    local = [job for job in jobs if getattr(job, "_process", None) is not None]
    for job in local:
        job._process.terminate()
    deadline = time.monotonic() + ENDING_SECONDS
    while any(not job.done() for job in local) and time.monotonic() < deadline:
        time.sleep(0.05)
    for job in jobs:
        if job not in local or not job.done():
            job.cancel(check=False)


def _executor(folder: str | Path, resources: Resources) -> Any:
    """submitit's executor with the resources set."""
    try:
        import submitit
    except ImportError as error:
        raise LabError(
            "jobs need submitit: pip install submitit, or this package with [slurm]"
        ) from error
    parameters: dict[str, Any] = {
        "name": "sclip_lab",
        "timeout_min": resources.timeout_min,
        "cpus_per_task": resources.cpus_per_task,
        # sbatch refuses even 0 of them where no GPUs are configured.
        "gpus_per_node": resources.gpus_per_node or None,
        "mem_gb": resources.mem_gb,
        "slurm_partition": resources.partition,
        "slurm_account": resources.account,
        "slurm_additional_parameters": dict(resources.additional or {}) or None,
        # Since 22.05 srun does not inherit this number from sbatch.
        "slurm_srun_args": [f"--cpus-per-task={resources.cpus_per_task}"],
        "slurm_setup": list(resources.setup or ()) or None,
        "local_setup": list(resources.setup or ()) or None,
    }
    try:
        executor = submitit.AutoExecutor(folder, cluster=resources.executor)
        executor.update_parameters(**parameters)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise LabError(f"{resources.executor}: {error}") from error
    return executor


@dataclass(frozen=True)
class _Task:
    """Run the function in a job: in the launching process's folder, on the job's share of GPUs."""

    function: Callable[[int], Any]
    cwd: str
    resources: Resources
    gpus: Sequence[str]

    def __call__(self, index: int) -> Any:
        # submitit ignores SIGTERM, with which Slurm ends and preempts.
        with signals.one_line("what was finished is in the store"):
            os.chdir(self.cwd)
            if self.gpus:
                share = _take_turns(self.gpus, self.resources.gpus_per_node, index)
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share)
            import torch  # CUDA is not initialised before its first use: the line above counts

            torch.set_num_threads(self.resources.cpus_per_task)
            logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s")
            return self.function(index)

    def checkpoint(self, index: int) -> Any:
        """Return what submitit queues when Slurm preempts the job or its time is over: the same
        task, which goes on with what the store lacks."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, index)


def _local_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        return [name.strip() for name in devices.split(",") if name.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]


def _take_turns(gpus: Sequence[str], number: int, index: int) -> list[str]:
    """The GPUs of job ``index``; submitit would give every local job the first ones."""
    return list(
        dict.fromkeys(gpus[i % len(gpus)] for i in range(index * number, (index + 1) * number))
    )


def _failures(jobs: Sequence[Any], executor: str) -> list[tuple[Any, str]]:
    """Wait for all jobs; return those that failed, each with the reason."""
    if executor == "debug":
        errors = [(job, job.exception()) for job in jobs]
        return [(job, str(error)) for job, error in errors if error is not None]
    failed = []
    waiting, looked, shown = list(jobs), -math.inf, ""
    while waiting:
        gone: Collection[str] = ()
        if executor == "slurm" and time.monotonic() - looked > QUEUE_SECONDS:
            queue, looked = _queue(), time.monotonic()
            if queue is not None:
                gone = {job.job_id for job in waiting} - set(queue)
                states = Counter(queue[j.job_id].lower() for j in waiting if j.job_id in queue)
                line = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
                if line != shown:
                    log.info("%d jobs: %s", len(waiting), line or "ending")
                shown = line
        for job in list(waiting):
            # submitit's own wait() asks sacct, and without Slurm's accounting it never learns
            # that a job was killed.
            vanished = job.job_id in gone and not _becomes_visible(job.paths.result_pickle)
            if vanished or (
                job.paths.result_pickle.exists() if executor == "slurm" else job.done()
            ):
                waiting.remove(job)
                error = "it ended without a result" if vanished else job.exception()
                if error is not None:
                    log.error("job %s failed; its log: %s", job.job_id, job.paths.stderr)
                    failed.append((job, str(error)))
                else:
                    log.info("job %s has finished", job.job_id)
        if waiting:
            time.sleep(0.5)
    return failed


def _queue() -> dict[str, str] | None:
    """States, such as PENDING, of this user's jobs by their ids; None if Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return None
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())


def _becomes_visible(path: Path) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _report(failures: Sequence[tuple[Any, str]], count: int) -> str:
    """The one error for all failed jobs."""
    job, reason = failures[0]
    log_file = job.paths.stderr
    if log_file.is_file():
        text = log_file.read_text(encoding="utf-8", errors="replace")
        # A progress bar overwrites its line.
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
        reason = f"its log {log_file} ends with:\n" + "\n".join(lines[-LAST_LINES:] or [reason])
    others = "".join(
        f"\nalso failed: job {j.job_id}, log {j.paths.stderr}" for j, _ in failures[1:]
    )
    return (
        f"{len(failures)} of {count} jobs failed; what was finished is in the store. "
        f"Job {job.job_id}: {reason}{others}"
    )
