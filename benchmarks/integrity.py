"""What integrity costs: its share of a sweep's processor time, both measured in one run.

    python -m benchmarks.integrity [--images 60]

A sweep of twelve variants on the embedded world, with pictures, diagnostics and the trunk cache,
then the same again, which reads all of it, then the report's tables of numbers. What counts as
integrity is making and checking seals, and waiting until a file is on the disk, in any thread.
Waiting takes no processor time, so its seconds are printed beside.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.core import files
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.store import Store

VARIANTS = ("vanilla", "csa", "csa_q", "csa_k", "csa_v", "maskclip", "naclip", "clearclip", "early",
            "local", "sharpened", "csa_identity")  # fmt: skip
MEASURES = ("attention_entropy", "spatial_invariance", "inter_class_mass")


def integrity(images: int = 60) -> dict[str, float]:
    """Processor seconds of a sweep, and of the integrity within them."""
    torch.set_num_threads(1)
    backbone = lab.load_backbone("patchwork_vit")
    dataset = lab.load_dataset("patchwork", limit=images)
    protocol = lab.load_protocol("sclip", "patchwork")
    specs = [Spec(lab.load_attention(n), backbone, protocol, dataset, n) for n in VARIANTS]
    spent: Counter[str] = Counter()
    usual = files._digest, files.sync_file
    files._digest, files.sync_file = (_timed(f, spent) for f in usual)
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                evaluate(
                    specs, Store(folder), progress=False, trunk_cache_gb=1.0,
                    observers=[Pictures(3, 2), Diagnostics(MEASURES, 8)],
                )  # fmt: skip
            results.summary(results.load(folder))
    finally:
        files._digest, files.sync_file = usual
    total = time.process_time() - began
    return {
        "sweep_cpu_s": round(total, 2),
        "integrity_cpu_s": round(spent["cpu"] / 1e9, 3),
        "integrity_share": round(spent["cpu"] / 1e9 / total, 5),
        "waited_for_disk_s": round(spent["sync_file wall"] / 1e9, 2),
        "calls": spent["calls"],
    }


def _timed(function: Callable[..., Any], spent: Counter[str]) -> Callable[..., Any]:
    lock = threading.Lock()

    def timed(*args: Any, **kwargs: Any) -> Any:
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        try:
            return function(*args, **kwargs)
        finally:
            with lock:
                spent["calls"] += 1
                spent["cpu"] += time.thread_time_ns() - cpu
                spent[f"{function.__name__} wall"] += time.perf_counter_ns() - wall

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    print(json.dumps(integrity(parser.parse_args().images), indent=1))


if __name__ == "__main__":
    main()
