"""Time our evaluator against a plain loop: same process, same weights, same photos, in turns.

    python -m benchmarks.run [--quick | --only bound|more|diagnostics|sweeps|trained] [--out docs]

Both sides start from the decoded, resized and normalised photo and end at class ids of the
photo's size. Weights are a random ViT-B/16 and text embeddings random unit rows: time does
not depend on them, but labels lie closer to ties than a trained network's. Ratios are reference /
ours unless a key's name says otherwise; each is the median over repetitions, with smallest and
largest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, tasks
from benchmarks.compared import HALVES, compare, trained
from benchmarks.costs import (
    block_operations,
    bound,
    cached,
    diagnosed,
    diagnosed_world,
    matrix_rate,
)
from benchmarks.memory import memory_in_child, readout_memory
from benchmarks.sweeps import sweeps
from benchmarks.tasks import (
    VARIANTS,
    Task,
    coco_object,
    task,
    voc20,
)
from sclip_lab.config.registry import (
    load_attention,
    load_backbone,
)
from sclip_lab.network.backbone import Backbone


def measure(quick: bool, photos: int | None = None, measured: int | None = None) -> dict[str, Any]:
    """All figures of docs/performance.json.

    Args:
        quick: only the main figures, with fewer repetitions.
        photos: repetitions; None: as many as each mode takes.
        measured: variants that the reference runs, the rest counting as their mean; None: all.
    """
    backbones = networks()
    full = backbones["fp32"]
    small, large = voc20(), coco_object()
    # In quick mode the reference runs only some variants: they differ little in time, and at
    # COCO-Object's names each has the same dense readout.
    few, fewer = (min(measured or 12, 6), min(measured or 12, 2)) if quick else (measured, measured)
    first = compare(small, backbones, VARIANTS, photos or (2 if quick else 7), few)
    second = compare(large, {"fp32": full}, VARIANTS, photos or (2 if quick else 3), fewer)
    memory = {side: memory_in_child(side) for side in ("ours", "reference")}
    ratios, object_ratios = first.ratios(), second.ratios()
    figures: dict[str, Any] = {
        **bounds(backbones, small, photos or (3 if quick else 9)),
        "single_fp32": ratios["single_fp32"],
        **{f"single_{half}": ratios[f"single_{half}"] for half in HALVES},
        **{f"sweep12_{kind}": ratios[f"sweep_{kind}"] for kind in backbones},
        "single_object_fp32": object_ratios["single_fp32"],
        "sweep12_object_fp32": object_ratios["sweep_fp32"],
        "separate_over_sweep12": ratios["separate_over_sweep"],
        "sweep12_over_cached": cached(full, small, photos or (3 if quick else 9)),
        **diagnostics_shares(full, photos or (3 if quick else 9)),
        **sweeps(1 if quick else 3),
        "readout_memory_ratio": round(memory["ours"] / memory["reference"], 5),
        "labels_equal_fp32": round(min(first.equal, second.equal), 7),
        **trained(32 if quick else 64),
        "labels_equal_bf16_random": round(first.equal_half, 7),
        "reference_variants": {
            "voc20": len(first.reference[0]),
            "coco_object": len(second.reference[0]),
        },
        "seconds": {"voc20": first.seconds(), "coco_object": second.seconds()},
        "memory_bytes": memory,
        "memory_growth_bytes": {"voc20": first.memory, "coco_object": second.memory},
        "classes_predicted": {"voc20": first.classes, "coco_object": second.classes},
    }
    if not quick:
        figures["more"] = more()
    return figures


def bounds(backbones: dict[str, Backbone], job: Task, repetitions: int) -> dict[str, Any]:
    """What a variant costs, and what this machine could do at best."""
    full, fast = backbones["fp32"], backbones["bf16_fast"]
    limit = bound(full, fast, job, repetitions)
    single, half = matrix_rate(torch.float32), matrix_rate(torch.bfloat16)
    plan = job.plan
    tokens, width = 1 + plan.grid[0] * plan.grid[1], full.blocks[0].width
    network = full.depth * block_operations(tokens, width) + 2 * tokens * 3 * 16**2 * width
    network *= plan.num_windows
    slope = (limit["sweep"] - limit["single"]) / (len(VARIANTS) - 1)
    return {
        "slope_per_variant": round(slope / limit["trunk"], 4),
        "sweep_over_bound": round(limit["sweep"] / (limit["trunk"] + limit["last_blocks"]), 4),
        "matrix_rate_share": round(network / limit["single"] / single, 4),
        "bf16_rate_share": round(network / limit["single_fast"] / half, 4),
        "matrix_rate_gflops": {"fp32": round(single / 1e9, 1), "bf16": round(half / 1e9, 1)},
        "network_gflop": round(network / 1e9, 1),
        "bound_seconds": limit,
    }


def diagnostics_shares(full: Backbone, repetitions: int) -> dict[str, Any]:
    """What the default diagnostics add to a sweep of twelve."""
    return {
        "diagnostics_share": diagnosed(full, voc20(), repetitions),
        "diagnostics_share_patchwork": diagnosed_world(min(3, repetitions)),
    }


def networks() -> dict[str, Backbone]:
    """ViT-B/16 of random weights by precision."""
    return {
        precision: load_backbone("ViT-B-16-quickgelu", seed=0, precision=precision, device="cpu")
        for precision in ("fp32", *HALVES)
    }


def more() -> dict[str, Any]:
    """Other numbers of variants, classes and pixels, one photo each."""
    backbones = networks()
    del backbones["bf16_fast"]
    figures: dict[str, Any] = {}
    jobs = {
        "4 variants": (voc20(), VARIANTS[:4]),
        "150 classes": (task("ade", "sclip_ade20k", (336, 448), (480, 640)), VARIANTS[:4]),
        "171 classes": (task("stuff", "sclip_coco_stuff", (336, 448), (480, 640)), VARIANTS[:4]),
        "560 x 1120": (task("city", "sclip_city_scapes", (560, 1120), (1024, 2048)), VARIANTS[:4]),
        "1500 x 2000": (task("large", "sclip_voc20", (336, 448), (1500, 2000)), VARIANTS[:4]),
    }
    for name, (job, variants) in jobs.items():
        result = compare(job, backbones, variants, 1)
        figures[name] = result.report()
    # 24 variants: the twelve, and as many temperatures. The reference's time for each temperature
    # is its mean over the twelve.
    warmer = (0.25, 0.6, 0.7, 0.8, 0.9, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
    extra = [load_attention("csa", temperature=temperature) for temperature in warmer]
    figures["24 variants"] = compare(voc20(), backbones, VARIANTS, 1, extra=extra).report()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the main figures, minutes")
    parser.add_argument(
        "--only",
        choices=("bound", "more", "diagnostics", "sweeps", "trained"),
        help="the bound of this machine, other sizes, the diagnostics, whole commands or bf16 on "
        "trained weights, put among the figures in --out",
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of performance.*")
    parser.add_argument("--readout-memory", choices=("ours", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=int, help="repetitions")
    parser.add_argument("--reference-variants", type=int, help="measure the reference on so many")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of one thread, for a machine that others use as well",
    )
    arguments = parser.parse_args()
    if arguments.readout_memory:
        print(readout_memory(arguments.readout_memory))
        return
    if arguments.clock == "cpu":
        tasks.clock = time.process_time
        torch.set_num_threads(1)
    path = arguments.out / "performance.json"
    if arguments.only:
        photos = arguments.photos or 9
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "bound": lambda: bounds(networks(), voc20(), photos),
            "diagnostics": lambda: diagnostics_shares(networks()["fp32"], photos),
            "more": lambda: {"more": more()},
            "sweeps": lambda: sweeps(min(3, photos)),
            "trained": lambda: dict(trained(64)),
        }
        part = parts[arguments.only]()
        figures = json.loads(path.read_text(encoding="utf-8")) | part
        print("\n".join(report.lines({key: part[key] for key in part if key in report.KEYS})))
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        report.write(figures, arguments.out)
        return
    machine = report.machine()  # before measuring, so that the load is that of others
    measured = measure(arguments.quick, arguments.photos, arguments.reference_variants)
    options = {"quick": arguments.quick, "clock": arguments.clock, "command": sys.argv[1:]}
    figures = {**machine, **options, **measured}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    report.write(figures, arguments.out)
    print("\n".join(report.lines(figures)))
    print(f"wrote {path}, performance.md and performance.png beside it")


if __name__ == "__main__":
    main()
