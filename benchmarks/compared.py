"""Compare our sweep with the reference loop: seconds, labels and memory of both."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
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

HALVES = ("bf16", "bf16_fast")


@dataclass(frozen=True)
class Compared:
    """Seconds of each repetition, labels and memory.

    Attributes:
        ours: our seconds, by ``single`` or ``sweep`` and the precision, such as single_fp32.
        reference: seconds of the reference, by variant.
        variants: number of variants in our sweep.
        equal: share of pixels where our fp32 has the reference's label.
        equal_half: share of pixels where our bf16 has our fp32's label.
        classes: how many the reference predicts.
        memory: growth of the process in bytes.
    """

    ours: dict[str, list[float]]
    reference: list[dict[str, float]]
    variants: int
    equal: float
    equal_half: float
    classes: int
    memory: dict[str, int]

    def _reference(self) -> dict[str, list[float]]:
        """Seconds of one variant, and of a sweep: the mean of the measured variants times all."""
        single = [seconds["csa"] for seconds in self.reference]
        sweep = [self.variants * statistics.mean(s.values()) for s in self.reference]
        return {"single": single, "sweep": sweep}

    def ratios(self) -> dict[str, dict[str, float]]:
        ratios = {}
        for side, seconds in self.ours.items():
            reference = self._reference()[side.partition("_")[0]]
            ratios[side] = spread([r / o for r, o in zip(reference, seconds, strict=True)])
        pairs = zip(self.ours["single_fp32"], self.ours["sweep_fp32"], strict=True)
        ratios["separate_over_sweep"] = spread([self.variants * one / all_ for one, all_ in pairs])
        return ratios

    def report(self) -> dict[str, Any]:
        """Ratios, seconds and memory, for a file."""
        return {
            "ratios": self.ratios(),
            "seconds": self.seconds(),
            "memory_growth_bytes": self.memory,
        }

    def seconds(self) -> dict[str, dict[str, float]]:
        sides = {f"reference_{side}": seconds for side, seconds in self._reference().items()}
        sides |= {f"ours_{side}": seconds for side, seconds in self.ours.items()}
        return {side: spread(seconds) for side, seconds in sides.items()}


def compare(
    job: Task,
    backbones: Mapping[str, Backbone],
    names: Sequence[str],
    repetitions: int,
    measured: int | None = None,
    extra: Variants = (),
) -> Compared:
    """Time both sides in turns, one photo per repetition, after one untimed round of each.

    Our sweep runs several times while the reference goes through its variants; their mean counts.

    Args:
        job: photos and names.
        backbones: the network by precision; ``fp32`` is the reference's as well.
        names: variants, ``csa`` first.
        repetitions: number of photos.
        measured: the reference runs only that many variants; None: all.
        extra: variants that only our side runs; the reference's time for one is its mean.
    """
    full = backbones["fp32"]
    photos = load_photos(full, job.resized, repetitions)
    text = random_text(len(job.query_classes), full.embed_dim)
    chosen = {"single": load_variants(["csa"]), "sweep": [*load_variants(names), *extra]}
    first = (full, photos[0], job, text)
    memory = {
        "ours_sweep_fp32": growth(sweep, *first, chosen["sweep"]),
        "ours_single_fp32": growth(sweep, *first, chosen["single"]),
        "reference_single": growth(plain, *first, names[0]),
    }
    for backbone in backbones.values():
        sweep(backbone, photos[0], job, text, chosen["sweep"])
    sides = list(itertools.product(chosen, backbones))
    ours: dict[str, list[float]] = {"_".join(side): [] for side in sides}
    reference: list[dict[str, float]] = []
    equal, equal_half, classes = [], [], set()
    for photo in photos:
        reference_seconds: dict[str, float] = {}
        parts: dict[str, list[float]] = {side: [] for side in ours}
        labels: dict[str, list[Tensor]] = {}
        for number, name in enumerate(names[:measured]):
            # We run three times in the long while that the reference takes, so that both sides meet
            # the same neighbours on a shared machine.
            if number % max(1, len(names[:measured]) // 3) == 0:
                for size, precision in sides:
                    call = (backbones[precision], photo, job, text, chosen[size])
                    seconds, predictions = timed(sweep, *call)
                    parts[f"{size}_{precision}"].append(seconds)
                    labels[f"{size}_{precision}"] = predictions
            reference_seconds[name], expected = timed(plain, full, photo, job, text, name)
            exact = labels["sweep_fp32"][number]
            equal.append((exact == expected).float().mean().item())
            if "bf16" in backbones:
                rough = labels["sweep_bf16"][number]
                equal_half.append((rough == exact).float().mean().item())
            classes.update(expected.unique().tolist())
        for side, part in parts.items():
            ours[side].append(statistics.mean(part))
        reference.append(reference_seconds)
        print(f"{job.name}: {len(reference)} of {len(photos)} photos", file=sys.stderr, flush=True)
    return Compared(
        ours,
        reference,
        len(chosen["sweep"]),
        statistics.mean(equal),
        statistics.mean(equal_half or [1.0]),
        len(classes),
        memory,
    )


def trained(scenes: int) -> dict[str, float]:
    """fp32 against bf16 on weights that were trained: the embedded network and its scenes.

    Returns:
        for each of `HALVES`: labels_equal_*, the share of pixels with fp32's label, and
        miou_change_*, the largest change of a variant's mIoU in points.
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
            for number, prediction in enumerate(labels):
                rows = metrics.count(prediction, sample.mask, count, dataset.ignore_index)
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
