"""Write docs/performance.md and its figure from the numbers of `benchmarks.run`."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import torch

from sclip_lab.network import rates

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# What is measured, in words, and the goal: at least (+) or at most (-) this value; "": no goal.
KEYS: dict[str, tuple[str, str, float]] = {
    "single_fp32": ("one variant, 30 names, 336x448 -> 375x500, reference / ours", "+", 1.3),
    "sweep12_fp32": ("12 variants, same photos, reference / ours", "+", 7),
    "sweep12_bf16": ("the same, reference in fp32 / ours in bf16", "+", 18),
    "sweep12_bf16_fast": ("the same, reference in fp32 / ours in bf16_fast", "+", 18),
    "single_bf16": ("one variant, reference in fp32 / ours in bf16", "", 0),
    "single_bf16_fast": ("one variant, reference in fp32 / ours in bf16_fast", "", 0),
    "bf16_rate_share": (
        "operations of the network per second of a single evaluation in bf16_fast, readout "
        "included, over the rate of a large product in bf16",
        "",
        0,
    ),
    "single_object_fp32": ("one variant, 113 names, 336x448 -> 480x640, reference / ours", "+", 5),
    "sweep12_object_fp32": ("12 variants, same photos, reference / ours", "+", 30),
    "separate_over_sweep12": (
        "12 separate single runs of ours / one sweep of ours, 30 names",
        "",
        0,
    ),
    "sweep12_over_cached": (
        "a sweep of 12 of ours, 30 names / the same with `trunk_cache` filled",
        "",
        0,
    ),
    "diagnostics_share": (
        "time that the default diagnostics add on a photo that is measured (by default 8 of a data "
        "set), over a sweep of 12 without",
        "-",
        0.3,
    ),
    "diagnostics_share_patchwork": (
        "the same of a whole `evaluate` with the default set: patchwork_vit, 64 scenes, 8 of them "
        "measured",
        "-",
        0.3,
    ),
    "finished_sweep_s": (
        "seconds of the demo's sweep of 17 jobs typed again, all in the store: the whole command",
        "-",
        8,
    ),
    "finished_sweep_over_fresh": ("the same over the sweep that computed it", "", 0),
    "overhead_per_job_s": ("seconds of each further job of that finished sweep", "-", 0.2),
    "figures_s": ("seconds of `sclip-lab report` on its store: the whole command", "-", 8),
    "slope_per_variant": (
        "seconds per further variant, its readout included, over those of the trunk "
        "(embedding and 11 blocks)",
        "-",
        1 / 9,
    ),
    "sweep_over_bound": (
        "a sweep of 12 with its readouts, over trunk once and 12 last blocks measured alone",
        "-",
        1.25,
    ),
    "readout_memory_ratio": (
        "growth of peak memory in one readout at 113 names and 480x640, ours / reference",
        "-",
        1 / 20,
    ),
    "matrix_rate_share": (
        "operations of the network per second of a whole single evaluation, readout included, "
        "over the rate of a large matrix product",
        "",
        0,
    ),
    "labels_equal_fp32": ("share of pixels with the reference's label, fp32", "+", 0.99999),
    "labels_equal_bf16": (
        "share of pixels where our bf16 has our fp32's label, trained weights (patchwork)",
        "+",
        0.999,
    ),
    "miou_change_bf16": (
        "largest change of a variant's mIoU by bf16 in points, trained weights (patchwork)",
        "-",
        0.1,
    ),
    "labels_equal_bf16_fast": (
        "share of pixels where our bf16_fast has our fp32's label, trained weights (patchwork)",
        "",
        0,
    ),
    "miou_change_bf16_fast": (
        "largest change of a variant's mIoU by bf16_fast in points, trained weights (patchwork)",
        "-",
        0.1,
    ),
    "labels_equal_bf16_random": ("as above on the benchmark's random weights: near-ties", "", 0),
}


SIZES = ("single_fp32", "sweep_fp32", "sweep_bf16")
GROWN = ("ours_sweep_fp32", "reference_single")


def machine() -> dict[str, Any]:
    """Cores, kind of processor, library, date, load: what a figure depends on."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cpu": rates.processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
            "load_before": round(os.getloadavg()[0], 2),
        }
    }


def value(figures: Mapping[str, Any], key: str) -> float:
    figure = figures[key]
    return float(figure["median"] if isinstance(figure, dict) else figure)


def row(figures: Mapping[str, Any], key: str) -> tuple[str, str, str]:
    """A figure with its range, its goal, and whether it was met."""
    figure, median, (_, sign, goal) = figures[key], value(figures, key), KEYS[key]
    text = f"{median:.4g}"
    if isinstance(figure, dict):
        text += f" [{figure['low']:.4g}, {figure['high']:.4g}] n={figure['repetitions']}"
    elif key.startswith("labels_equal"):
        text = f"{100 * figure:.4f} %"
    if not sign:
        return text, "", ""
    met = median >= goal if sign == "+" else median <= goal
    aim = f"at {'least' if sign == '+' else 'most'} {goal:.5g}"
    return text, aim, "met" if met else "missed"


def lines(figures: Mapping[str, Any]) -> list[str]:
    """Every key with its `row`, in columns for a terminal."""
    return [f"{key:30} {'  '.join(row(figures, key))}".rstrip() for key in KEYS if key in figures]


def write(figures: Mapping[str, Any], folder: Path) -> None:
    """Write performance.md and performance.png into ``folder``."""
    host = figures["machine"]
    command = " ".join(["python -m benchmarks.run", *figures["command"]])
    clocks = {"wall": "Seconds are wall-clock.", "cpu": "Seconds are one thread's processor time."}
    counts = figures["reference_variants"]
    page = [
        "# Performance",
        "",
        f"Made by `{command}` on {host['date']}: {host['cores']} cores, {host['threads']} threads, "
        f"{host['cpu']}, {host['capability']}, torch {host['torch']}; load average of the "
        f"machine before the start {host['load_before']}.",
        "",
        "The reference (`benchmarks/reference.py`) evaluates one variant at a time, window by "
        "window, with dense synonym reduction. Both sides run in turns in one process on the "
        "same weights and photos, from the normalised photo to class ids; decoding is on neither "
        "side. Values are medians, brackets hold smallest and largest repetition. "
        f"{clocks[figures['clock']]} Of the 12 variants the reference ran {counts['voc20']} at "
        f"VOC20's names and {counts['coco_object']} at COCO-Object's; others count as their mean.",
        "",
        "![ratios and seconds](performance.png)",
        "",
        "| key | what | value | goal | |",
        "|---|---|---|---|---|",
    ]
    for key, (words, *_) in KEYS.items():
        page.append(f"| {key} | {words} | {' | '.join(row(figures, key))} |")
    if "more" in figures:
        words = (
            "Reference / ours on one photo (`benchmarks.run --only more`), and growth of the "
            "process beyond what earlier rows left it: 0 is no more than those."
        )
        page += ["", "## Other sizes", "", words]
        page += ["", "| what | one variant | sweep fp32 | sweep bf16 | ours, sweep | reference |"]
        page.append("|---|---|---|---|---|---|")
        for name, part in figures["more"].items():
            ratios = (f"{part['ratios'][key]['median']:.2f}" for key in SIZES)
            grown = (f"{part['memory_growth_bytes'][key] / 1e6:.0f} MB" for key in GROWN)
            page.append(f"| {name} | {' | '.join(ratios)} | {' | '.join(grown)} |")
    page += ["", "## Seconds per photo", "", "| task | stage | median | low | high |"]
    page.append("|---|---|---|---|---|")
    timings = dict(figures["seconds"])
    timings |= {f"{task} (more)": part["seconds"] for task, part in figures.get("more", {}).items()}
    for task, stages in timings.items():
        for stage, s in stages.items():
            page.append(
                f"| {task} | {stage} | {s['median']:.3f} | {s['low']:.3f} | {s['high']:.3f} |"
            )
    rate = figures["matrix_rate_gflops"]
    limit, memory = figures["bound_seconds"], figures["memory_bytes"]
    page += [
        "",
        "## Bound",
        "",
        f"Trunk {limit['trunk']:.3f} s; 12 last blocks alone {limit['last_blocks']:.3f} s; one "
        f"variant {limit['single']:.3f} s; sweep of 12 {limit['sweep']:.3f} s. The network takes "
        f"{figures['network_gflop']} GFLOP per photo; large products run at {rate['fp32']} "
        f"GFLOP/s in fp32 and {rate['bf16']} in bf16. Readout peak: ours "
        f"{memory['ours'] / 1e6:.0f} MB, reference {memory['reference'] / 1e6:.0f} MB.",
        "",
        "[What bounds the goals that were missed, and what was tried](performance-notes.md).",
        "",
        "## GPU",
        "",
        gpu(folder / "gpu.json"),
        "",
    ]
    (folder / "performance.md").write_text("\n".join(page), encoding="utf-8")
    figure(figures, folder / "performance.png")


def gpu(path: Path) -> str:
    """A sentence that says where the figures of `benchmarks.gpu` are, or that no GPU was there."""
    figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"device": "cpu"}
    if figures["device"] == "cpu":
        return (
            "No GPU was at hand. `python -m benchmarks.gpu --minutes 8` measures a day's worth on "
            "one; [what was counted without](performance-gpu.md)."
        )
    return f"{figures['device']}: [performance-gpu.md](performance-gpu.md)."


def figure(figures: Mapping[str, Any], path: Path) -> None:
    """Draw ratios against their goals, and seconds of both sides."""
    keys = [key for key in KEYS if key.startswith(("single", "sweep12", "separate"))]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    places = range(len(keys))
    medians = [value(figures, key) for key in keys]
    low = [m - figures[key]["low"] for m, key in zip(medians, keys, strict=True)]
    high = [figures[key]["high"] - m for m, key in zip(medians, keys, strict=True)]
    left.barh(places, medians, xerr=(low, high), color="#4477aa", ecolor="#222222", capsize=3)
    for place, key, median in zip(places, keys, medians, strict=True):
        _, sign, goal = KEYS[key]
        if sign:
            left.plot([goal, goal], [place - 0.45, place + 0.45], color="#cc3311", lw=2)
        left.annotate(
            f"{median:.1f}", (0, place), (6, 0), textcoords="offset points", va="center", color="w"
        )
    left.set_yticks(places, keys)
    left.invert_yaxis()
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(0, 1.6 * max(*medians, 30))
    left.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    left.set_xlabel("reference time / ours (red: goal)")

    limit = figures["bound_seconds"]
    stages = {
        "reference, 12 variants": [figures["seconds"]["voc20"]["reference_sweep"]["median"], 0],
        "ours, 12 variants": [limit["trunk"], limit["sweep"] - limit["trunk"]],
    }
    names = ["trunk (reference: everything)", "last blocks and readouts"]
    colours = ["#4477aa", "#ee9944"]
    start = [0.0, 0.0]
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        widths = [parts[i] for parts in stages.values()]
        right.barh(list(stages), widths, left=start, color=colour, label=name)
        start = [s + w for s, w in zip(start, widths, strict=True)]
    for place, total in enumerate(start):
        right.annotate(
            f"{total:.1f} s", (total, place), (4, 0), textcoords="offset points", va="center"
        )
    right.set_xlim(0, 1.25 * max(start))
    right.invert_yaxis()
    right.set_xlabel("seconds per photo, VOC20 names")
    right.legend(fontsize=8, loc="lower right")
    fig.savefig(path, dpi=150)
    plt.close(fig)
