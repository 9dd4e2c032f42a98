"""The Hydra application behind ``sclip-lab evaluate`` and ``python experiments/evaluate.py``."""

from __future__ import annotations

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from sclip_lab import config, experiment
from sclip_lab.errors import LabError

log = logging.getLogger(__name__)


@hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float:
    """One job. Bad input ends it with one line instead of a traceback and exit code 1; the other
    jobs of a multirun go on."""
    try:
        return experiment.run(cfg)
    except LabError as error:
        if HydraConfig.get().mode == RunMode.RUN:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        # Into this job's log; Hydra shows the first failed job's error once all have run, and
        # prints no traceback for an exception of this kind.
        log.error("error: %s", error)
        raise CompactHydraException(f"error: {error}") from None
