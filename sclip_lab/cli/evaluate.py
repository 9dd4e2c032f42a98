"""``sclip-lab evaluate`` and ``python experiments/evaluate.py``: a command line of Hydra."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from sclip_lab.config import application, plugins


def main(words: Sequence[str]) -> int:
    """Run the jobs of a command line, and wait until W&B has written them.

    Raises:
        LabError: bad input; in a sweep after all jobs have ended.
    """
    plugins.enter(words)
    try:  # the job's module is heavy, and not needed for --help or --cfg
        application.run(words, lambda config: import_module("sclip_lab.run.job").run(config))
    except (Exception, SystemExit):  # not after a signal, which leaves no time for it
        _finish()
        raise
    _finish()
    return 0


def _finish() -> None:
    if tracking := sys.modules.get("sclip_lab.run.tracking"):
        tracking.finish()
