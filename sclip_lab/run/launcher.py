"""Hydra launchers that hand a whole multirun to the evaluator at once.

The evaluator computes all jobs in as few passes as their windows allow; afterwards every job runs
like under Hydra's own launcher, with its own output directory, configuration, log and return
value, and finds its numbers in the store. The passes run in this process, or split by shards of
the data set as jobs of Slurm or of this machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from sclip_lab.config.plain_config import plain_config
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import locate
from sclip_lab.run import jobs

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

# Whatever is heavy is imported where it is used: Hydra imports its plugins at every start.

log = logging.getLogger(__name__)


class FusedLauncher(BasicLauncher):
    """Compute first, then launch. Jobs that could not be computed fail without another try.

    Args:
        compute: dotted path of a function that takes the jobs' configurations, and returns for
            each why it could not be computed, or None.
    """

    def __init__(self, compute: str) -> None:
        super().__init__()
        self.compute = locate(compute, ("sclip_lab.run.job",))

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        configs = self.compose(job_overrides, initial_job_idx)
        failed = self.compute(configs)
        self._refuse({n: why for n, why in enumerate(failed, initial_job_idx) if why})
        return super().launch(job_overrides, initial_job_idx)

    def compose(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[DictConfig]:
        """The jobs' configurations, each with Hydra's own section."""
        assert self.config is not None
        assert self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs: list[DictConfig] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            configs.append(config)
        return configs

    def _refuse(self, failed: Mapping[int, str]) -> None:
        """Let Hydra's jobs with these numbers fail at once."""
        task = self.task_function
        assert task is not None

        def guarded(config: DictConfig) -> Any:
            reason = failed.get(HydraConfig.get().job.num)
            if reason is None:
                return task(config)
            # The console has it from the pass.
            record = log.makeRecord(log.name, logging.ERROR, "", 0, "error: %s", (reason,), None)
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handle(record)
            raise CompactHydraException(f"error: {reason}")

        self.task_function = guarded if failed else task


class JobsLauncher(FusedLauncher):
    """Compute in submitted jobs, wait for them, then launch.

    Args:
        compute: see `FusedLauncher`.
        folder: for submitit's files and the logs, on a file system that all nodes share.
        shards: number of submitted jobs: each computes all cells on its part of the images.
        finish: where Hydra's jobs then read their numbers: ``here``, or in one more submitted
            ``job``, where this machine lacks the GPU that numbers are stored under.
        **resources: see `sclip_lab.run.jobs.Resources`.
    """

    def __init__(
        self, compute: str, folder: str, shards: int = 1, finish: str = "here", **resources: Any
    ) -> None:
        super().__init__(compute)
        self.folder = folder
        self.shards = shards
        self.finish = finish
        self.resources = plain_config(resources)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit and wait, then launch.

        Raises:
            CompactHydraException: one error for whatever is missing; Hydra prints it without a
                traceback.
        """
        try:
            configs = self.compose(job_overrides, initial_job_idx)
            resources = jobs.Resources(**self.resources)
            self._check(configs)
            if self.finish == "job":
                failed = self._submit(configs, [None] * len(configs), resources)
                state = Singleton.get_state()
                task = partial(_launch, self, job_overrides, initial_job_idx, state, failed)
                text, returns = jobs.run(task, 1, self.folder, resources)[0]
                log.info("%s", text)
                return returns
            cells = self.cells(configs)
            if cells:
                keys = [spec.key for spec, _ in cells]
                failed = self._submit([config for _, config in cells], keys, resources)
                log.info("%s", self.report(cells, failed))
        except LabError as error:
            raise CompactHydraException(f"error: {error}") from error
        return BasicLauncher.launch(self, job_overrides, initial_job_idx)

    def cells(self, configs: Sequence[DictConfig]) -> list[tuple[Spec, DictConfig]]:
        """What is to be computed. A job whose configuration is wrong is left to fail on its own.

        Raises:
            LabError: jobs that could not do their part are not submitted.
        """
        from sclip_lab.run import tracking
        from sclip_lab.run.job import make_spec

        found = []
        for config in configs:
            try:
                tracking.check(config.tracking)
                found.append((make_spec(config), config))
            except Exception as error:
                log.error("left out of the jobs: %s", error)
        for spec, _ in found:
            if self.shards > len(spec.dataset):
                raise LabError(
                    f"hydra.launcher.shards={self.shards}: data set '{spec.dataset.name}' has "
                    f"{len(spec.dataset)} images, use at most that many"
                )
            if self.resources.get("gpus_per_node") and spec.backbone.device.type == "cpu":
                raise LabError(
                    f"hydra.launcher.gpus_per_node={self.resources['gpus_per_node']}, but the "
                    "device here is the CPU, and numbers are stored by kind of device; "
                    "hydra.launcher.finish=job reads them where they were made"
                )
        return found

    def report(self, cells: Sequence[tuple[Spec, DictConfig]], failed: Mapping[str, str]) -> str:
        """The table of all cells, once everything is there. Hydra's jobs of the cells whose keys
        have ``failed`` will fail.

        Raises:
            LabError: something is missing, and would silently be computed by Hydra's jobs.
        """
        self._refuse({c.hydra.job.num: failed[s.key] for s, c in cells if s.key in failed})
        finished = [(spec, config) for spec, config in cells if spec.key not in failed]
        _require_finished(finished, self.folder)
        for reason in dict.fromkeys(failed.values()):
            log.error("%s", reason)
        return _table(finished)

    def _submit(
        self,
        configs: Sequence[DictConfig],
        keys: Sequence[str | None],
        resources: jobs.Resources,
    ) -> dict[str, str]:
        """What the jobs could not compute: reasons by the cells' keys."""
        sent = [_resolved(config) for config in configs]
        task = partial(compute_shard, self.compute, sent, keys, self.shards)
        failed: dict[str, str] = {}
        for part in jobs.run(task, self.shards, self.folder, resources):
            failed |= part
        return failed

    def _check(self, configs: Sequence[DictConfig]) -> None:
        if self.finish not in ("here", "job"):
            raise unknown("hydra.launcher.finish", self.finish, ("here", "job"))
        if not isinstance(self.shards, int) or self.shards < 1:
            raise LabError(f"hydra.launcher.shards={self.shards!r} must be 1 or more")
        if self.shards > 1 and any(list(config.shard) != [0, 1] for config in configs):
            raise LabError(
                f"the launcher makes {self.shards} shards itself; leave shard=[0,1], "
                "or set hydra.launcher.shards=1"
            )


def compute_shard(
    compute: Callable[[Sequence[DictConfig]], Sequence[str | None]],
    configs: Sequence[Mapping[str, Any]],
    keys: Sequence[str | None],
    count: int,
    index: int,
) -> dict[str, str]:
    """One submitted job.

    Args:
        compute: as in `JobsLauncher`.
        configs: one resolved configuration per cell.
        keys: of the cells, as the launching process found them; None: it did not look, and a
            wrong configuration is left out.
        count, index: which part of the images.

    Returns:
        why cells could not be computed, by their keys.

    Raises:
        LabError: the cells are others here, or none could be computed.
    """
    from sclip_lab.run.job import make_spec

    made, specs = [], []
    for config, key in zip(configs, keys, strict=True):
        part = {} if count == 1 else {"shard": [index, count]}
        own = OmegaConf.create({**config, **part})
        try:
            spec = make_spec(own)
        except LabError as error:
            if key is not None:
                raise
            log.error("left out of the jobs: %s", error)
            continue
        if key is not None and spec.key != key:
            raise LabError(
                f"{spec.label} is another cell here ({spec.key[:12]}, device "
                f"{spec.backbone.device.type}) than where it was launched ({key[:12]}): "
                "code, data, weights or kind of device differ"
            )
        made.append(own)
        specs.append(spec)
    reasons = zip(specs, compute(made), strict=True)
    failed = {spec.key: reason for spec, reason in reasons if reason}
    if failed and len(failed) == len(specs):
        raise LabError("; ".join(dict.fromkeys(failed.values())))
    return failed


def _launch(
    launcher: JobsLauncher,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
    state: Any,
    failed: Mapping[str, str],
    index: int,
) -> tuple[str, Sequence[JobReturn]]:
    """Hydra's jobs within a submitted one: ``state`` is Hydra's of the launching process.

    Returns:
        the table, and what Hydra's jobs returned.
    """
    Singleton.set_state(state)
    setup_globals()
    cells = launcher.cells(launcher.compose(job_overrides, initial_job_idx))
    text = launcher.report(cells, failed) if cells else ""
    return text, BasicLauncher.launch(launcher, job_overrides, initial_job_idx)


def _require_finished(cells: Sequence[tuple[Spec, DictConfig]], folder: str) -> None:
    """Otherwise this process would silently compute what is missing.

    Raises:
        LabError: naming cells of which images are missing.
    """
    from sclip_lab.results.store.store import Store

    def missing() -> list[str]:
        found = []
        for spec, config in cells:
            index, count = config.shard
            wanted = list(spec.dataset.names)[index::count]
            if not Store(config.paths.store).done(spec).issuperset(wanted):
                found.append(spec.label)
        return found

    deadline = time.monotonic() + jobs.VISIBLE_SECONDS
    while labels := missing():
        if time.monotonic() > deadline:
            raise LabError(
                f"all jobs succeeded, but results are missing here: {', '.join(labels)}; "
                f"is paths.store on a file system that the nodes share? Logs: {folder}"
            )
        time.sleep(2)


def _table(cells: Sequence[tuple[Spec, DictConfig]]) -> str:
    """What the jobs computed together; each submitted job's log has the table of its part."""
    from sclip_lab import results
    from sclip_lab.run.job import table

    stores: dict[str, dict[str, str]] = {}
    for spec, config in cells:
        stores.setdefault(str(config.paths.store), {})[spec.key] = spec.label
    tables = [
        table(results.load(root, list(labels), partial=True, labels=labels))
        for root, labels in stores.items()
    ]
    return "\n" + "\n\n".join(tables) + "\n"


def _resolved(config: DictConfig) -> dict[str, Any]:
    """A configuration that means the same in another process: plain values, and of Hydra's own
    section only what specs are made from. Jobs show no progress bar."""
    values = {str(key): plain_config(config[key]) for key in config if key != "hydra"}
    hydra = {
        "runtime": {"choices": plain_config(config.hydra.runtime.choices)},
        "overrides": {"task": plain_config(config.hydra.overrides.task)},
    }
    return {**values, "progress": False, "hydra": hydra}
