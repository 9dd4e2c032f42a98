"""The Hydra application behind ``sclip-lab evaluate`` and ``python experiments/evaluate.py``."""

from __future__ import annotations

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from sclip_lab.config import guard, overrides, plugins, reuse
from sclip_lab.config.folders import conf_dir
from sclip_lab.core import signals
from sclip_lab.core.errors import LabError
from sclip_lab.run import ending, job, tracking

log = logging.getLogger(__name__)


def main() -> None:
    """Check names on the command line, then hand over to Hydra. A signal ends it in one line."""
    ending.readable_output()
    with signals.one_line("what was finished is in the store, the same command goes on"):
        if code := ending.in_one_line(_run, " ".join(sys.argv)):
            sys.exit(code)


def _run() -> int:
    ending.install_in_hydra()
    guard.install()
    reuse.install()
    plugins.enter(sys.argv[1:])
    overrides.check(sys.argv[1:])
    try:
        application()
    except KeyboardInterrupt:  # there is no time for W&B
        raise
    except BaseException:
        tracking.finish()
        raise
    tracking.finish()
    return 0


@hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
def application(cfg: DictConfig) -> float:
    """One job. Bad input ends it with one line instead of a traceback and exit code 1; the other
    jobs of a multirun go on."""
    try:
        _require_multirun()
        return job.run(cfg)
    except LabError as error:
        if HydraConfig.get().mode == RunMode.RUN:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        # Into this job's log; Hydra shows the first failed job's error once all have run, and
        # prints no traceback for an exception of this kind.
        log.error("error: %s", error)
        raise CompactHydraException(f"error: {error}") from None


def _require_multirun() -> None:
    """A preset that sweeps would run one job of the defaults without -m."""
    hydra_config = HydraConfig.get()
    grids = hydra_config.sweeper.get("grids") or []
    keys = dict.fromkeys(key for grid in grids for key in grid)
    swept = [*(hydra_config.sweeper.get("params") or ()), *keys]
    if hydra_config.mode == RunMode.RUN and swept:
        name = hydra_config.runtime.choices.get("experiment")
        raise LabError(
            f"experiment={name} sweeps over {', '.join(map(str, swept))}: "
            f"add -m, as in 'sclip-lab evaluate -m experiment={name}'"
        )
