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


@dataclass(frozen=True)
class Compared:
    """Seconds of each repetition, labels and memory."""

    single: list[float]
    several: list[float]
    half: list[float]
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
        if self.half:
            halves = zip(sums, self.half, strict=True)
            found["sweep_bf16"] = spread([r / o for r, o in halves])
        return found

    def report(self) -> dict[str, Any]:
        """Ratios, seconds and memory, for a file."""
        return {
            "ratios": self.ratios(),
            "seconds": self.seconds(),
            "memory_growth_bytes": self.memory,
        }

    def seconds(self) -> dict[str, dict[str, float]]:
        found = {
            "reference_single": spread([r["csa"] for r in self.reference]),
            "reference_sweep": spread(self.sums()),
            "ours_single_fp32": spread(self.single),
            "ours_sweep_fp32": spread(self.several),
        }
        return {**found, **({"ours_sweep_bf16": spread(self.half)} if self.half else {})}


def compare(
    job: Task,
    full: Backbone,
    half: Backbone | None,
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
        full, half: the network in fp32, and in bf16 if that is to be measured.
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
    if half is not None:
        sides["half"] = (half, variants)
        sweep(half, photos[0], job, text, variants)
    ours: dict[str, list[float]] = {side: [] for side in ("single", "several", "half")}
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
        labels_equal_bf16, the share of pixels with equal labels, and miou_change_bf16, the largest
        change of a variant's mIoU in points.
    """
    dataset = load_dataset("patchwork")
    protocol = load_protocol("sclip", "patchwork")
    full, half = (load_backbone("patchwork_vit", precision=p) for p in ("fp32", "bf16"))
    text = embed_vocabulary(full, dataset.vocabulary, protocol.templates)
    classes = torch.tensor(dataset.vocabulary.query_classes)
    variants = load_variants(VARIANTS)
    count = dataset.vocabulary.num_classes
    totals = np.zeros((2, len(variants), 3, count), dtype=np.int64)
    equal = []
    for index in range(min(scenes, len(dataset))):
        sample = dataset[index]
        plan, pixels = photos.prepare(sample.image, protocol, full)
        photo = full.normalise(pixels[None])[0]
        job = Task("patchwork", plan.resized, plan.target, classes, protocol, full.patch_size)
        both = [sweep(backbone, photo, job, text, variants) for backbone in (full, half)]
        for side, labels in enumerate(both):
            for number, found in enumerate(labels):
                rows = metrics.count(found, sample.mask, count, dataset.ignore_index)
                here = totals[side, number]
                np.add.at(here[1], rows.true, rows.pixels)
                np.add.at(here[2], rows.predicted, rows.pixels)
                right = rows.true == rows.predicted
                here[0, rows.true[right]] += rows.pixels[right]
        equal += [(a == b).float().mean().item() for a, b in zip(*both, strict=True)]
    scores = STATISTICS["miou"](totals)
    return {
        "labels_equal_bf16": round(statistics.mean(equal), 7),
        "miou_change_bf16": round(float(100 * np.abs(scores[0] - scores[1]).max()), 4),
    }
