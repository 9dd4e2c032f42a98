"""``sclip-lab evaluate`` and ``python experiments/evaluate.py``: Hydra's command line."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from sclip_lab.config import application, plugins


def main(words: Sequence[str]) -> int:
    """Evaluate what the words say, and wait for what is still being written.

    Raises:
        LabError: bad input; of a sweep, the first job's once all have ended.
    """
    plugins.enter(words)
    try:
        application.run(words, _job)
    except KeyboardInterrupt:  # there is no time for W&B
        raise
    except BaseException:
        _finish()
        raise
    _finish()
    return 0


def _job(config: DictConfig) -> float:
    from sclip_lab.run import job  # heavy, and not needed for --help or --cfg

    return job.run(config)


def _finish() -> None:
    import sys

    if tracking := sys.modules.get("sclip_lab.run.tracking"):
        tracking.finish()
