"""Hydra composes each job of a sweep once.

Alone it composes a job to check it, the launcher composes it to hand it to the evaluator, and again
to launch it, a fifth of a second each. The first two get copies here, and the last what was copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

USES = 3  # of a composed job; a further one composes it anew
# By loader, by what was typed and by what the job adds.
_jobs: WeakKeyDictionary[ConfigLoaderImpl, dict[tuple[Any, ...], list[DictConfig]]]
_jobs = WeakKeyDictionary()


def install() -> None:
    """From here on, in this process. Twice is once."""
    if not hasattr(ConfigLoaderImpl.load_sweep_config, "__wrapped__"):
        ConfigLoaderImpl.load_sweep_config = _once(  # type: ignore[method-assign]
            ConfigLoaderImpl.load_sweep_config
        )


def _once(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    @wraps(compose)
    def load_sweep_config(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        jobs = _jobs.setdefault(self, {})
        name, typed = master_config.hydra.job.config_name, master_config.hydra.overrides.hydra
        job = name, tuple(typed), tuple(sweep_overrides)
        if not jobs.get(job):
            config = compose(self, master_config, list(sweep_overrides))
            jobs[job] = [config, *(copy.deepcopy(config) for _ in range(USES - 1))]
        config = jobs[job].pop()
        # As Hydra does: what was resolved once, such as the time, stays.
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    return load_sweep_config
