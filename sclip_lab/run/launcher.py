"""Hydra launchers that evaluate all jobs of a sweep together.

First all cells are evaluated in as few passes as possible: in this process, or in submitted jobs of
Slurm or of this machine, which share the images. Then each job runs as under Hydra's own launcher,
with its output directory, configuration, log and return value, and reports its finished cell.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from sclip_lab.config.composition import plain_config
from sclip_lab.config.sweeper import compose_jobs
from sclip_lab.core.errors import LabError, describe, traceback_of
from sclip_lab.core.values import check, within
from sclip_lab.run import jobs

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

# Slow modules are imported in functions, since Hydra imports its plugins at each start.

log = logging.getLogger(__name__)


class FusedLauncher(Launcher):
    """Evaluate all cells in this process, then run the jobs."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from sclip_lab.run import job

        configs = self.compose(job_overrides, initial_job_idx)
        job.compute(configs)
        return self.run_jobs(configs)

    def compose(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[DictConfig]:
        """The configurations of jobs, including Hydra's own section."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        load = partial(self.hydra_context.config_loader.load_sweep_config, self.config)
        configs = compose_jobs(job_overrides, load)
        for number, config in enumerate(configs, initial_job_idx):
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
        return configs

    def run_jobs(self, configs: Sequence[DictConfig]) -> list[JobReturn]:
        """Run each job as Hydra does."""
        words = [filter_overrides(plain_config(c.hydra.overrides.task)) for c in configs]
        common = set.intersection(*map(set, words)) if len(words) > 1 else set()
        returns = []
        for config, overrides in zip(configs, words, strict=True):
            varying = " ".join(word for word in overrides if word not in common)
            log.info("\t#%s : %s", config.hydra.job.num, varying)
            returns.append(
                run_job(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns


class JobsLauncher(FusedLauncher):
    """Evaluate all cells in submitted jobs, wait for them, then run Hydra's jobs.

    Args:
        folder: for submitit's files and the logs, on a file system that all nodes share.
        shards: number of submitted jobs; each evaluates all cells on its part of the images.
        finish: where Hydra's jobs run: ``here``, or in one more submitted ``job``. Keys contain the
            kind of device, so a machine without a GPU cannot read cells of a GPU.
        **resources: see `sclip_lab.run.jobs.Resources`.
    """

    def __init__(
        self, folder: str, shards: int = 1, finish: str = "here", **resources: Any
    ) -> None:
        self.folder = folder
        self.shards = shards
        self.finish = finish
        self.resources = plain_config(resources)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit jobs and wait for them, then run Hydra's jobs."""
        from sclip_lab import results
        from sclip_lab.run import job

        configs = self.compose(job_overrides, initial_job_idx)
        resources = jobs.Resources(**self.resources)
        self._check(configs)
        specs: dict[int, Spec] = {}
        if self.finish == "here":
            specs = self.specs(configs)
            if not specs:
                return self.finished(configs, specs, {})
        keys = [specs[number].key if number in specs else None for number in range(len(configs))]
        task = partial(compute_shard, [_resolved(c) for c in configs], keys, self.shards)
        failed: dict[int, str] = {}
        for part in jobs.run(task, self.shards, self.folder, resources):
            failed |= part
        if self.finish == "here":
            return self.finished(configs, specs, failed)
        state = Singleton.get_state()
        last = partial(_launch, self, job_overrides, initial_job_idx, state, sys.argv, failed)
        names, returns = jobs.run(last, 1, self.folder, resources)[0]
        if names:
            df = results.load(configs[0].paths.store, list(names), partial=True, names=names)
            log.info("\n%s\n", job.table(df))
        return returns

    def specs(self, configs: Sequence[DictConfig]) -> dict[int, Spec]:
        """The spec of each valid job by the job's place; invalid jobs are logged, and the sweep of
        the valid ones is noted in the store.

        Raises:
            LabError: more shards than images, or jobs with GPUs from a machine without one.
        """
        from sclip_lab.evaluation.loop import passes
        from sclip_lab.run import job, tracking

        specs = {}
        for number, config in enumerate(configs):
            try:
                tracking.check(config.tracking)
                specs[number] = job.make_spec(config)
            except Exception as error:
                log.error("left out of the jobs: %s", describe(error))
        passes(list(specs.values()), (self.shards - 1, self.shards))  # enough images?
        on_cpu = any(spec.backbone.device.type == "cpu" for spec in specs.values())
        if self.resources.get("gpus_per_node") and on_cpu:
            raise LabError(
                f"hydra.launcher.gpus_per_node={self.resources['gpus_per_node']}, but the device "
                "here is the CPU, and numbers are stored by kind of device; "
                "hydra.launcher.finish=job reads them where they were made"
            )
        if specs:
            job.note_sweep(list(specs.values()), configs[0])
        return specs

    def finished(
        self,
        configs: Sequence[DictConfig],
        specs: Mapping[int, Spec],
        failed: Mapping[int, str],
    ) -> list[JobReturn]:
        """Wait until all cells but the ``failed`` ones (place -> why) are in the store, then run
        Hydra's jobs.

        Raises:
            LabError: images are missing, which this process would silently evaluate.
        """
        from sclip_lab.run import job

        whole = [(spec, configs[n]) for n, spec in specs.items() if n not in failed]
        _require_finished(whole, self.folder)
        # `specs` has logged the jobs that have none.
        job.compute(configs, failed={n: why for n, why in failed.items() if n in specs})
        return self.run_jobs(configs)

    def _check(self, configs: Sequence[DictConfig]) -> None:
        check("hydra.launcher.finish", self.finish, Literal["here", "job"])
        check("hydra.launcher.shards", self.shards, int)
        within("hydra.launcher.shards", self.shards, 1)
        if self.shards > 1 and any(list(config.shard) != [0, 1] for config in configs):
            raise LabError(
                f"the launcher makes {self.shards} shards itself; leave shard=[0,1], "
                "or set hydra.launcher.shards=1"
            )


def compute_shard(
    configs: Sequence[Mapping[str, Any]], keys: Sequence[str | None], count: int, index: int
) -> dict[int, str]:
    """Run one submitted job.

    Args:
        configs: the resolved configuration of each cell.
        keys: see `sclip_lab.run.job.compute`.
        count, index: the number of parts of the images, and which part this job evaluates.

    Returns:
        why cells could not be evaluated, by their place. Tracebacks of bugs are in the job's log.
    """
    from sclip_lab.run import job

    shard = {} if count == 1 else {"shard": [index, count]}
    failures = job.compute([OmegaConf.create({**values, **shard}) for values in configs], keys)
    failed = {}
    for number, failure in enumerate(failures):
        if failure is not None:
            failed[number] = describe(failure)
            if lines := traceback_of(failure):
                log.error("%s", lines)
    if len(failed) == len(configs):
        raise LabError("; ".join(dict.fromkeys(failed.values())))
    return failed


def _launch(
    launcher: JobsLauncher,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
    state: Any,
    argv: list[str],
    failed: Mapping[int, str],
    index: int,
) -> tuple[dict[str, dict[str, str]], Sequence[JobReturn]]:
    """Run Hydra's jobs within a submitted job; return the cells' names by key, and the jobs'
    results."""
    Singleton.set_state(state)  # Hydra's, of the launching process
    sys.argv = argv  # of the launching process too: the command that the store notes
    setup_globals()
    configs = launcher.compose(job_overrides, initial_job_idx)
    specs = launcher.specs(configs)
    names = {spec.key: spec.shown_names for n, spec in specs.items() if n not in failed}
    return names, launcher.finished(configs, specs, failed)


def _require_finished(cells: Sequence[tuple[Spec, DictConfig]], folder: str) -> None:
    """Refuse cells that lack images, which this process would silently evaluate."""
    from sclip_lab.results.store.store import Store

    def missing() -> list[str]:
        labels = []
        for spec, config in cells:
            index, count = config.shard
            store, images = Store(config.paths.store), spec.dataset.names[index::count]
            if not {*store.done(spec), *store.skipped(spec)}.issuperset(images):
                labels.append(spec.label)
        return labels

    deadline = time.monotonic() + jobs.VISIBLE_SECONDS
    while labels := missing():
        if time.monotonic() > deadline:
            raise LabError(
                f"all jobs succeeded, but results are missing here: {', '.join(labels)}; "
                f"is paths.store on a file system that the nodes share? Logs: {folder}"
            )
        time.sleep(2)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """A configuration for another process. It keeps only what a spec needs of Hydra's section."""
    values = {str(key): plain_config(config[key]) for key in config if key != "hydra"}
    hydra = {
        "runtime": {"choices": plain_config(config.hydra.runtime.choices)},
        "overrides": {"task": plain_config(config.hydra.overrides.task)},
    }
    return {**values, "progress": False, "hydra": hydra}
