"""A Hydra launcher that hands a whole multirun to the evaluator at once.

The evaluator computes all jobs in as few passes as their windows allow; afterwards every job runs
like under Hydra's own launcher, with its own output directory, configuration, log and return
value, and finds its numbers in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, configure_log
from omegaconf import DictConfig, open_dict

from sclip_lab.targets import locate

log = logging.getLogger(__name__)


class FusedLauncher(BasicLauncher):
    """Compute first, then launch.

    Args:
        compute: dotted path of a function that takes the jobs' configurations.
    """

    def __init__(self, compute: str) -> None:
        super().__init__()
        self.compute = locate(compute)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
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
        self.compute(configs)
        return super().launch(job_overrides, initial_job_idx)
