"""``sclip-lab evaluate`` and ``python experiments/evaluate.py``: a command line of Hydra."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from sclip_lab.config import application, plugins


def main(words: Sequence[str]) -> int:
    """Run the jobs of a command line, and wait until W&B has written them.

    Raises:
        LabError: bad input; in a sweep after all jobs have ended.
    """
    plugins.enter(words)
    try:
        application.run(words, _job)
    except (Exception, SystemExit):  # not after a signal, which leaves no time for it
        _finish()
        raise
    _finish()
    return 0


def _job(config: DictConfig) -> float:
    from sclip_lab.run import job  # heavy, and not needed for --help or --cfg

    return job.run(config)


def _finish() -> None:
    if tracking := sys.modules.get("sclip_lab.run.tracking"):
        tracking.finish()
