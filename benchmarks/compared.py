"""Our sweep beside the reference loop: seconds, labels and memory of both."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import growth
from benchmarks.tasks import (
    VARIANTS,
    Task,
    Variants,
    load_photos,
    load_variants,
    plain,
    random_text,
    spread,
    sweep,
    timed,
)
from sclip_lab.config.registry import (
    load_backbone,
    load_dataset,
    load_protocol,
)
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.table import metrics
from sclip_lab.results.table.scores import STATISTICS
from sclip_lab.segmentation import photos
from sclip_lab.segmentation.prompts import embed_vocabulary

SIDES = ("single", "several", "half", "fast", "half_single", "fast_single")
HALVES = ("bf16", "bf16_fast")


@dataclass(frozen=True)
class Compared:
    """Seconds of each repetition, labels and memory."""

    single: list[float]
    several: list[float]
    half: list[float]
    fast: list[float]
    half_single: list[float]
    fast_single: list[float]
    reference: list[dict[str, float]]
    variants: int
    equal: float
    equal_half: float
    classes: int
    memory: dict[str, int]

    def sums(self) -> list[float]:
        """The reference's seconds for all variants: its mean over those measured, times all."""
        return [self.variants * statistics.mean(r.values()) for r in self.reference]

    def ratios(self) -> dict[str, dict[str, float]]:
        sums = self.sums()
        first = [r["csa"] for r in self.reference]
        found = {
            "single_fp32": spread([r / o for r, o in zip(first, self.single, strict=True)]),
            "sweep_fp32": spread([r / o for r, o in zip(sums, self.several, strict=True)]),
        }
        alone = [self.variants * s / o for s, o in zip(self.single, self.several, strict=True)]
        found["separate_over_sweep"] = spread(alone)
        sides = {
            "sweep_bf16": (sums, self.half),
            "sweep_bf16_fast": (sums, self.fast),
            "single_bf16": (first, self.half_single),
            "single_bf16_fast": (first, self.fast_single),
        }
        for name, (reference, ours) in sides.items():
            if ours:
                found[name] = spread([r / o for r, o in zip(reference, ours, strict=True)])
        return found

    def report(self) -> dict[str, Any]:
        """Ratios, seconds and memory, for a file."""
        return {
            "ratios": self.ratios(),
            "seconds": self.seconds(),
            "memory_growth_bytes": self.memory,
        }

    def seconds(self) -> dict[str, dict[str, float]]:
        sides = {
            "reference_single": [r["csa"] for r in self.reference],
            "reference_sweep": self.sums(),
            "ours_single_fp32": self.single,
            "ours_sweep_fp32": self.several,
            "ours_single_bf16": self.half_single,
            "ours_sweep_bf16": self.half,
            "ours_single_bf16_fast": self.fast_single,
            "ours_sweep_bf16_fast": self.fast,
        }
        return {side: spread(seconds) for side, seconds in sides.items() if seconds}


def compare(
    job: Task,
    full: Backbone,
    half: Backbone | None,
    fast: Backbone | None,
    names: Sequence[str],
    repetitions: int,
    measured: int | None = None,
    extra: Variants = (),
) -> Compared:
    """Both sides in turns, one photo per repetition, after one untimed round of either.

    Ours counts as the mean of the times that it is taken while the reference goes through its
    variants.

    Args:
        job: photos and names.
        full, half, fast: the network in fp32, and in ``bf16`` and ``bf16_fast`` if these are to be
            measured.
        names: variants, ``csa`` first.
        repetitions: photos.
        measured: the reference runs only that many variants; None: all.
        extra: variants that ours runs besides; the reference's time for one is its mean.
    """
    photos = load_photos(full, job.resized, repetitions)
    text = random_text(len(job.query_classes), full.embed_dim)
    variants = [*load_variants(names), *extra]
    csa = load_variants(["csa"])
    first = (full, photos[0], job, text)
    memory = {
        "ours_sweep_fp32": growth(sweep, *first, variants),
        "ours_single_fp32": growth(sweep, *first, csa),
        "reference_single": growth(plain, *first, names[0]),
    }
    sides = {"single": (full, csa), "several": (full, variants)}
    for name, backbone in (("half", half), ("fast", fast)):
        if backbone is not None:
            sides |= {name: (backbone, variants), f"{name}_single": (backbone, csa)}
            sweep(backbone, photos[0], job, text, variants)
    ours: dict[str, list[float]] = {side: [] for side in SIDES}
    plains: list[dict[str, float]] = []
    equal, equal_half, classes = [], [], set()
    chosen = names[:measured]
    for photo in photos:
        taken: dict[str, float] = {}
        parts: dict[str, list[float]] = {side: [] for side in sides}
        labels: dict[str, list[Tensor]] = {}
        for number, name in enumerate(chosen):
            # Three times in the long while that the reference takes, so that both meet the same
            # neighbours on a shared machine.
            if number % max(1, len(chosen) // 3) == 0:
                for side, (backbone, several) in sides.items():
                    seconds, labels[side] = timed(sweep, backbone, photo, job, text, several)
                    parts[side].append(seconds)
            taken[name], expected = timed(plain, full, photo, job, text, name)
            exact, rough = labels["several"][number], labels.get("half", labels["several"])[number]
            equal.append((exact == expected).float().mean().item())
            equal_half.append((rough == exact).float().mean().item())
            classes.update(expected.unique().tolist())
        for side, part in parts.items():
            ours[side].append(statistics.mean(part))
        plains.append(taken)
        print(f"{job.name}: {len(plains)} of {len(photos)} photos", file=sys.stderr, flush=True)
    return Compared(
        ours["single"],
        ours["several"],
        ours["half"],
        ours["fast"],
        ours["half_single"],
        ours["fast_single"],
        plains,
        len(variants),
        statistics.mean(equal),
        statistics.mean(equal_half),
        len(classes),
        memory,
    )


def trained(scenes: int) -> dict[str, float]:
    """fp32 against bf16 on weights that were trained: the embedded network and its scenes.

    Returns:
        labels_equal_*, the share of pixels with fp32's label, and miou_change_*, the largest change
        of a variant's mIoU in points; of each of `HALVES`.
    """
    dataset = load_dataset("patchwork")
    protocol = load_protocol("sclip", "patchwork")
    full, *halves = (load_backbone("patchwork_vit", precision=p) for p in ("fp32", *HALVES))
    text = embed_vocabulary(full, dataset.vocabulary, protocol.templates)
    classes = torch.tensor(dataset.vocabulary.query_classes)
    variants = load_variants(VARIANTS)
    count = dataset.vocabulary.num_classes
    totals = np.zeros((1 + len(HALVES), len(variants), 3, count), dtype=np.int64)
    equal: dict[str, list[float]] = {name: [] for name in HALVES}
    for index in range(min(scenes, len(dataset))):
        sample = dataset[index]
        plan, pixels = photos.prepare(sample.image, protocol, full)
        photo = full.normalise(pixels[None])[0]
        job = Task("patchwork", plan.resized, plan.target, classes, protocol, full.patch_size)
        sides = [sweep(backbone, photo, job, text, variants) for backbone in (full, *halves)]
        for side, labels in enumerate(sides):
            for number, found in enumerate(labels):
                rows = metrics.count(found, sample.mask, count, dataset.ignore_index)
                here = totals[side, number]
                np.add.at(here[1], rows.true, rows.pixels)
                np.add.at(here[2], rows.predicted, rows.pixels)
                right = rows.true == rows.predicted
                here[0, rows.true[right]] += rows.pixels[right]
        for name, labels in zip(HALVES, sides[1:], strict=True):
            pairs = zip(sides[0], labels, strict=True)
            equal[name] += [(a == b).float().mean().item() for a, b in pairs]
    scores = STATISTICS["miou"](totals)
    figures = {}
    for side, name in enumerate(HALVES, start=1):
        figures[f"labels_equal_{name}"] = round(statistics.mean(equal[name]), 7)
        change = 100 * np.abs(scores[0] - scores[side]).max()
        figures[f"miou_change_{name}"] = round(float(change), 4)
    return figures
