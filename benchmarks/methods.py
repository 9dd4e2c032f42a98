"""What each method costs in a sweep of all.

    python -m benchmarks.methods --name NAME [--photos N] [--out docs] [KEY=VALUE ...]

``experiment=methods`` with random weights on some photos of a data set, pass by pass. Seconds
are processor seconds of one thread, so that a busy machine measures as an idle one does; texts,
which are embedded once a sweep, are apart. Figures of several networks stand side by side: each run
puts its own among those of performance-methods.json, and writes performance-methods.md anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.memory import SIZES, memory_in_use
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.timings import Timings
from sclip_lab.evaluation.loop import evaluate, passes
from sclip_lab.evaluation.spec import Spec
from sclip_lab.run.job import make_spec

SWEEP = ("experiment=methods", "pretrained=null", "device=cpu")


class ProcessorTime(Timings):
    """Measures processor seconds of this thread instead of wall-clock seconds."""

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.thread_time() - start


def measure(photos: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Costs of one network.

    Returns:
        ``passes``: protocols, cells, seconds a photo without texts, seconds of texts, peak bytes;
        ``trunk``: seconds a photo of the first pass; ``variants``: seconds of each variant's own
        blocks over those of the trunk, in the first pass.
    """
    specs = list({spec.key: spec for spec in map(make_spec, sweep([*SWEEP, *overrides]))}.values())
    figures: dict[str, Any] = {"photos": photos, "overrides": list(overrides), "passes": []}
    for group in passes(specs, (0, 1)):
        timings, seconds, peak = cost(group, photos)
        text = timings.seconds.pop("text", 0.0)
        row = {
            "protocols": sorted({spec.protocol.name for spec in group}),
            "cells": len(group),
            "seconds_per_photo": round((seconds - text) / photos, 3),
            "text_seconds": round(text, 2),
            "peak_bytes": peak,
        }
        figures["passes"].append(row)
        print(row, flush=True)
        if len(figures["passes"]) == 1:
            trunk, names = timings.seconds["trunk"], {spec.attention.name for spec in group}
            shares = {name: timings.seconds[name] / trunk for name in names & set(timings.seconds)}
            figures["trunk"] = round(trunk / photos, 3)
            figures["variants"] = {name: round(share, 3) for name, share in shares.items()}
    return figures


def cost(specs: Sequence[Spec], photos: int) -> tuple[Timings, float, int]:
    """Stages, processor seconds and peak memory of one pass."""
    timings, count = ProcessorTime(), len(specs[0].dataset)
    before, _ = time.thread_time(), memory_in_use(reset_peak=True)
    with tempfile.TemporaryDirectory() as store:
        # This shard takes every n-th photo, so that it has ``photos`` of them or a few less.
        evaluate(specs, store, shard=(0, -(-count // photos)), progress=False, timings=timings)
    return timings, time.thread_time() - before, memory_in_use(peak=True)


def page(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of performance-methods.md."""
    lines = ["# What each method costs", "", *str(__doc__).splitlines()[2:], ""]
    for network, costs in figures.items():
        total = sum(row["seconds_per_photo"] for row in costs["passes"])
        machine = costs["machine"]
        cells = sum(row["cells"] for row in costs["passes"])
        lines += [
            f"## {network}",
            "",
            f"{cells} cells in {len(costs['passes'])} passes: {total:.1f} s a photo, "
            f"measured on {costs['photos']}; {machine['cpu']}, {machine['date']}. Typed besides: "
            f"`{' '.join(costs['overrides'])}`.",
            "",
            "| pass: protocols | cells | s / photo | s, texts | peak GB |",
            "|---|---|---|---|---|",
        ]
        for row in sorted(costs["passes"], key=lambda row: -row["seconds_per_photo"]):
            lines.append(
                f"| {', '.join(row['protocols'])} | {row['cells']} | "
                f"{row['seconds_per_photo']:.2f} | {row['text_seconds']:.1f} | "
                f"{row['peak_bytes'] / 1e9:.1f} |"
            )
        lines.append("")
    lines += [
        "## Variants beside the trunk",
        "",
        "Seconds of a variant's own blocks over those of the trunk, embedding and all blocks as "
        "trained, in the largest pass. What several variants share counts for the first that "
        "asks. Readouts are not among them.",
        "",
        "| variant | " + " | ".join(figures) + " |",
        "|---" * (1 + len(figures)) + "|",
    ]
    last = list(figures.values())[-1]["variants"]
    for name in sorted(last, key=lambda name: -last[name]):
        shares = [costs["variants"].get(name) for costs in figures.values()]
        cells_of = ["" if share is None else f"{share:.2f}" for share in shares]
        lines.append(f"| `{name}` | " + " | ".join(cells_of) + " |")
    return "\n".join([*lines, "", *memory_table()])


def memory_table() -> list[str]:
    """Lines of a table with the peaks that `benchmarks.memory` measured; none without its file."""
    path = Path(__file__).parents[1] / "docs" / "performance-memory.json"
    if not path.is_file():
        return []
    lines = [
        "## Peak memory",
        "",
        "Of a process that labels one photo with ViT-B/16 in fp32 and random weights, all windows "
        "of it (`python -m benchmarks.memory`): GB after the network was loaded, and at its "
        "peak. Windows go through the network in chunks, see `batch_windows`. Seconds are wall "
        "time; some rows ran beside other work.",
        "",
        "| protocol | method | settings of | photo | loaded | peak | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in json.loads(path.read_text(encoding="utf-8")).items():
        protocol, method, dataset = key.split(" ")
        height, width = SIZES[dataset]
        numbers = f"{row['loaded'] / 1e9:.2f} | {row['peak'] / 1e9:.2f} | {row['seconds']:.0f}"
        lines.append(f"| {protocol} | {method} | {dataset} | {height} x {width} | {numbers} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the figures")
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--name", help="of the network, for the tables; none: only the page anew")
    parser.add_argument("overrides", nargs="*", help="such as backbone=ViT-B-16-quickgelu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "performance-methods.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if arguments.name:
        measured = measure(arguments.photos, arguments.overrides)
        figures[arguments.name] = {**report.machine(), **measured}
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "performance-methods.md").write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
