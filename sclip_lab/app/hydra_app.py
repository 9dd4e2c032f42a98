"""The Hydra application behind ``sclip-lab evaluate`` and ``python experiments/evaluate.py``."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from sclip_lab.app import experiment, registry
from sclip_lab.errors import LabError, unknown

log = logging.getLogger(__name__)


def main() -> None:
    """Check the names of choices, then hand over to Hydra."""
    try:
        check_choices(sys.argv[1:])
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    application()


def check_choices(arguments: Sequence[str]) -> None:
    """Hydra lists all choices of a group for an unknown one; this says which was meant.

    Raises:
        LabError: ``group=name`` where conf/group has no such file.
    """
    for argument in arguments:
        group, equals, chosen = argument.lstrip("+").partition("=")
        if not equals or not re.fullmatch(r"\w+(/\w+)*", group):
            continue
        known = registry.names(group)
        for name in chosen.split(",") if known else ():
            if re.fullmatch(r"[\w.-]+", name) and name not in (*known, "null"):
                raise unknown(group, name, known)


@hydra.main(config_path=str(registry.conf_dir()), config_name="config", version_base="1.3")
def application(cfg: DictConfig) -> float:
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
