"""The loop on several cores: forked copies of this process each take a share of the images.

A small network keeps one core busy, whatever its number of threads. The copies share weights and
specs with this process. Each copy uses one thread, because OpenMP's threads do not survive a fork.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sclip_lab.core import signals
from sclip_lab.core.timings import Timings
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.store import Store

log = logging.getLogger(__name__)


def evaluate_forked(
    specs: Sequence[Spec],
    store: Store,
    processes: int,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    timings: Timings | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Run `evaluate` in several processes that write to one store.

    This process does the rest: measures of several photos together, and the share of a copy that
    was killed. It also repeats photos and specs that failed, so that their errors are raised here.

    Args:
        specs, store, shard, progress, settings: see `evaluate`. All networks are on a CPU.
        processes: how many; 1 is the same as `evaluate`.
        timings: filled with the seconds of this process alone.
    """
    index, count = shard
    names = [set(spec.dataset.names[index::count]) for spec in specs]
    copies = min(processes, *map(len, names))
    if copies > 1 and all(n <= store.done(s) for n, s in zip(names, specs, strict=True)):
        copies = 1
    children = []
    if copies > 1:
        for spec in specs:
            store.open(spec)  # in the order in which one process opens them
        fork = multiprocessing.get_context("fork")
        for k in range(copies):
            share = index + count * k, count * copies
            how = {"shard": share, "progress": progress and k == 0, **settings}
            children.append(fork.Process(target=_share, args=(specs, store.root, how, k == 0)))
    with signals.raised():
        try:
            for child in children:
                child.start()
            for child in children:
                child.join()
        finally:
            for child in children:
                if child.is_alive():
                    child.terminate()
                    child.join()
    return evaluate(specs, store, shard=shard, progress=progress, timings=timings, **settings)


def _share(specs: Sequence[Spec], root: Path, how: dict[str, Any], tells: bool) -> None:
    """Evaluate one share. The copy opens the store anew, for threads are not copied with it."""
    torch.set_num_threads(1)
    if not tells:
        logging.disable(logging.INFO)
    code, timings = 0, Timings()
    try:
        evaluate(specs, Store(root), timings=timings, **how)
        if timings.images:
            log.info("one of several processes: %s", timings.report())
    except BaseException as error:  # the process that waits meets it again, and says so
        log.debug("a share ended: %s", error)
        code = 1
    finally:
        os._exit(code)  # without the exit handlers of the first process
