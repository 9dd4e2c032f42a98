"""What is timed: photos, names, our sweep, and one variant of the reference."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import reference
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import (
    load_attention,
)
from sclip_lab.data.decode import read_image
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import photos, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.protocol import Protocol

# Twelve last-block variants; the single variant is SCLIP's own. In quick mode the reference
# runs only the first six, which are ordered to take the mean time of all: maskclip is cheap.
VARIANTS = (
    "csa",
    "vanilla",
    "csa_mean",
    "csa_q",
    "maskclip",
    "csa_random",
    "csa_k",
    "csa_v",
    "csa_identity",
    "sharpened",
    "local",
    "clearclip",
)
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data"
Variants = Sequence[Variant]
# Replaced by --clock cpu.
clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Task:
    """One size of photo with one list of names."""

    name: str
    resized: tuple[int, int]
    target: tuple[int, int]
    query_classes: Tensor
    protocol: Protocol
    patch: int = 16

    @property
    def plan(self) -> windows.Plan:
        crop, stride = self.protocol.crop_size, self.protocol.stride
        return windows.plan(self.resized, self.target, crop, stride, self.patch)


def task(
    name: str,
    vocabulary: str,
    resized: tuple[int, int],
    target: tuple[int, int],
    **protocol: float,
) -> Task:
    classes = torch.tensor(Vocabulary.named(vocabulary).query_classes)
    return Task(name, resized, target, classes, Protocol(**protocol))  # type: ignore[arg-type]


def voc20() -> Task:
    return task("voc20", "sclip_voc20", (336, 448), (375, 500))


def coco_object() -> Task:
    return task(
        "coco_object",
        "sclip_coco_object",
        (336, 448),
        (480, 640),
        logit_scale=50.0,
        prob_threshold=0.1,
    )


def load_variants(names: Sequence[str]) -> list[Variant]:
    return [load_attention(name) for name in names]


def load_photos(backbone: Backbone, size: tuple[int, int], count: int) -> list[Tensor]:
    """(3, *size) normalised photos; noise where there are none."""
    paths = sorted(itertools.islice(PHOTOS.glob("*/images/*.jpg"), 10_000))[:count]
    generator = np.random.default_rng(0)
    pixels = [read_image(path) for path in paths] or [
        generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)
    ]
    return [photos.to_input(image, size, backbone) for image in pixels]


def random_text(queries: int, embed_dim: int, seed: int = 0) -> Tensor:
    """(queries, embed_dim) float32: random unit rows in place of text embeddings."""
    rows = torch.randn(queries, embed_dim, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


@torch.inference_mode()
def sweep(
    backbone: Backbone,
    photo: Tensor,
    job: Task,
    text: Tensor,
    variants: Variants,
    trunk: Callable[[], tuple[int, Tensor] | None] = lambda: None,
) -> list[Tensor]:
    """Labels of all variants on one photo, as `sclip_lab.evaluation.loop` makes them."""
    plan = job.plan
    readout = Readout(job.protocol, text, job.query_classes)
    labels: list[Tensor] = [torch.empty(0)] * len(variants)
    for index, encoded in encode(backbone, plan.cut(photo), variants, trunk=trunk()):
        laid_out = plan.lay_out(readout.patch_logits(encoded))
        labels[index] = readout.predict(plan, laid_out, photo, encoded, backbone)
    return labels


def plain(backbone: Backbone, photo: Tensor, job: Task, text: Tensor, variant: str) -> Tensor:
    """Labels of one variant by the reference loop."""
    crop = job.protocol.crop_size or 0
    logits = reference.slide(
        backbone.model, photo, job.target, text, variant, crop, job.protocol.stride
    )
    protocol, threshold = job.protocol, job.protocol.prob_threshold
    assert isinstance(threshold, int | float)
    return reference.decide(
        logits,
        job.query_classes,
        protocol.logit_scale,
        threshold,
        protocol.area_threshold,
    )


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = clock()
    result = call(*arguments)
    return clock() - start, result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "repetitions": len(values),
    }
