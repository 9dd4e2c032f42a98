"""Our evaluator against a plain loop: same process, same weights, same photos, taken in turns.

    python -m benchmarks.run [--quick | --only bound|more|diagnostics] [--out docs]

Both sides start from the decoded, resized and normalised photo and end at class ids of the
photo's size. Weights are a random ViT-B/16 and text embeddings random unit rows: time does
not depend on them, but labels lie closer to ties than a trained network's. Ratios are reference /
ours unless a key's name says otherwise; each is the median over repetitions, with smallest and
largest.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks import reference, report
from sclip_lab import diagnostics
from sclip_lab.app.registry import (
    conf_dir,
    load_attention,
    load_backbone,
    load_dataset,
    load_protocol,
)
from sclip_lab.attention.variant import Variant
from sclip_lab.data.decode import read_image
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.evaluation.recorder import Observer
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context, State
from sclip_lab.network.linear import Linear
from sclip_lab.network.precision import lower_precision
from sclip_lab.results import metrics
from sclip_lab.segmentation import photos, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import encode, first_rewritten
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import unit

# Twelve last-block variants; the single variant is SCLIP's own. In an order in which the first six,
# all that the quick mode gives the reference, take its mean time: maskclip among them is cheap.
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
    trunk: Callable[[], Tensor | None] = lambda: None,
) -> list[Tensor]:
    """Labels of all variants on one photo, as `sclip_lab.evaluation.loop` makes them."""
    plan = job.plan
    readout = Readout(job.protocol, text, job.query_classes)
    labels: list[Tensor] = [torch.empty(0)] * len(variants)
    for index, encoded in encode(backbone, plan.cut(photo), variants, trunk=trunk()):
        laid_out = plan.lay_out(readout.patch_logits(encoded))
        labels[index] = readout.predict(plan, laid_out, photo, encoded)
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


def trained(scenes: int) -> tuple[float, float]:
    """fp32 against bf16 on weights that were trained: the embedded network and its scenes.

    Returns:
        share of pixels with equal labels, and the largest change of a variant's mIoU in points.
    """
    dataset = load_dataset("patchwork")
    protocol = load_protocol("sclip", "patchwork")
    full, half = (load_backbone("patchwork_vit", precision=p) for p in ("fp32", "bf16"))
    text = embed_vocabulary(full, dataset.vocabulary, protocol.templates)
    classes = torch.tensor(dataset.vocabulary.query_classes)
    variants = load_variants(VARIANTS)
    count = dataset.vocabulary.num_classes
    confusion = np.zeros((2, len(variants), count, count), dtype=np.int64)
    equal = []
    for index in range(min(scenes, len(dataset))):
        sample = dataset[index]
        plan, photo = photos.prepare(sample.image, protocol, full)
        job = Task("patchwork", plan.resized, plan.target, classes, protocol, full.patch_size)
        both = [sweep(backbone, photo, job, text, variants) for backbone in (full, half)]
        for side, labels in enumerate(both):
            for number, found in enumerate(labels):
                rows = metrics.count(found, sample.mask, count, dataset.ignore_index)
                confusion[side, number] += metrics.confusion(*rows, count)
        equal += [(a == b).float().mean().item() for a, b in zip(*both, strict=True)]
    scores = np.array([[metrics.miou(matrix) for matrix in side] for side in confusion])
    return statistics.mean(equal), float(100 * np.abs(scores[0] - scores[1]).max())


def block_operations(tokens: int, width: int) -> int:
    """Floating-point operations of one block: 12 width^2 multiply-adds per token, two products
    with the attention weights; norms and activations are not counted."""
    return 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)


@torch.inference_mode()
def matrix_rate(dtype: torch.dtype) -> float:
    """Operations per second of the best of a few large products, weights laid out before."""
    best = 0.0
    for rows, inner, columns in ((2048, 2048, 2048), (1182, 768, 3072), (1182, 3072, 768)):
        x, weight, layer = torch.randn(rows, inner), torch.randn(columns, inner), Linear()
        arguments = (layer, x.to(dtype), weight.to(dtype), None)
        seconds = min(timed(*arguments)[0] for _ in range(9))
        best = max(best, 2 * rows * inner * columns / seconds)
    return best


@torch.inference_mode()
def bound(backbone: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Trunk once, each last block alone, and a sweep, in seconds; medians.

    The trunk is the embedding and every block before the last. A last block measured alone
    computes its own projections and attention maps, sharing nothing, and ends before LN_post.
    """
    photo = load_photos(backbone, job.resized, 1)[0]
    text = random_text(len(job.query_classes), backbone.embed_dim)
    variants = load_variants(VARIANTS)
    *blocks, last = backbone.blocks
    plan = job.plan

    def trunk() -> list[BlockInput]:
        tokens, entered = backbone.embed(plan.cut(photo)), []
        for block in blocks:
            entered.append(BlockInput(block, tokens))
            tokens = block.plain(tokens)
        return [*entered, BlockInput(last, tokens)]

    def alone(history: list[BlockInput], variant: Variant) -> State:
        fresh = BlockInput(last, history[-1].tokens)
        context = Context(fresh, tuple(history[:-1]), plan.grid)
        return variant.apply(fresh, State(fresh.tokens), context)

    taken: dict[str, list[float]] = {"trunk": [], "last_blocks": [], "single": [], "sweep": []}
    for _ in range(repetitions + 1):
        seconds, history = timed(trunk)
        taken["trunk"].append(seconds)
        taken["last_blocks"].append(sum(timed(alone, history, v)[0] for v in variants))
        taken["single"].append(timed(sweep, backbone, photo, job, text, variants[:1])[0])
        taken["sweep"].append(timed(sweep, backbone, photo, job, text, variants)[0])
    return {stage: statistics.median(values[1:]) for stage, values in taken.items()}


@torch.inference_mode()
def cached(backbone: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Our sweep over our sweep with the trunk's tokens from disk, read and their digest checked.

    The file was written just before, so that it is read from the system's memory.
    """
    photo = load_photos(backbone, job.resized, 1)[0]
    text = random_text(len(job.query_classes), backbone.embed_dim)
    variants = load_variants(VARIANTS)
    common = (backbone, photo, job, text, variants)
    level = first_rewritten(backbone, variants)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        cache = TrunkCache(folder, 1.0)
        _, encoded = next(encode(backbone, job.plan.cut(photo), variants))
        cache.save("photo", encoded.history[level].tokens)
        del encoded
        for _ in range(repetitions + 1):
            computed = timed(sweep, *common)[0]
            ratios.append(computed / timed(sweep, *common, lambda: cache.load("photo"))[0])
    return spread(ratios[1:])


@torch.inference_mode()
def diagnosed(backbone: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Share of a sweep's time that the default diagnostics add where a photo is measured.

    Both sides in turns on one photo. Labels are blocks of four classes, as many per window as a
    photo has.
    """
    photo = load_photos(backbone, job.resized, 1)[0]
    text = random_text(len(job.query_classes), backbone.embed_dim)
    variants = load_variants(VARIANTS)
    plan = job.plan
    rows, columns = (torch.arange(side) * 2 // side for side in plan.grid)
    labels = (2 * rows[:, None] + columns).expand(plan.num_windows, -1, -1)

    def measured() -> None:
        readout = Readout(job.protocol, text, job.query_classes)
        for _, encoded in encode(backbone, plan.cut(photo), variants):
            readout.predict(plan, plan.lay_out(readout.patch_logits(encoded)), photo, encoded)
            seen = diagnostics.Observation(
                encoded.state.attention,
                encoded.patches,
                encoded.class_embedding,
                labels,
                plan.grid,
                backbone.patch_size,
            )
            list(diagnostics.values(diagnostics.MEASURES, default_diagnostics()["measures"], seen))

    shares = []
    for _ in range(repetitions + 1):
        alone = timed(sweep, backbone, photo, job, text, variants)[0]
        shares.append(timed(measured)[0] / alone - 1)
    return spread(shares[1:])


def diagnosed_world(repetitions: int) -> dict[str, float]:
    """The same of `evaluate` as a user runs it: the embedded world, all of its photos, and as
    many of them measured as conf/diagnostics/default.yaml says; reading and writing included."""
    backbone, dataset = load_backbone("patchwork_vit"), load_dataset("patchwork")
    protocol = load_protocol("sclip", dataset.name)
    specs = [Spec(v, backbone, protocol, dataset) for v in load_variants(VARIANTS)]
    chosen = default_diagnostics()

    def run(observers: Sequence[Observer]) -> None:
        with tempfile.TemporaryDirectory() as store:
            evaluate(specs, store, observers=observers, progress=False)

    shares = []
    for _ in range(repetitions + 1):
        alone = timed(run, [])[0]
        measured = timed(run, [Diagnostics(chosen["measures"], chosen["images"])])[0]
        shares.append(measured / alone - 1)
    return spread(shares[1:])


def default_diagnostics() -> dict[str, Any]:
    """What conf/diagnostics/default.yaml says: measures, images."""
    text = (conf_dir() / "diagnostics" / "default.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def memory_in_use(peak: bool = False, reset_peak: bool = False) -> int:
    """Resident bytes of this process, now or at their peak, by Linux's own account.

    Not ``getrusage``: its maximum outlives exec, so a child would start at its parent's peak.
    """
    process = Path("/proc/self")
    if reset_peak:
        (process / "clear_refs").write_text("5")
    key = "VmHWM:" if peak else "VmRSS:"
    lines = (process / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def growth(call: Callable[..., Any], *arguments: Any) -> int:
    """Bytes by which a call raises the peak of this process."""
    before = memory_in_use(reset_peak=True)
    call(*arguments)
    return memory_in_use(peak=True) - before


def readout_memory(side: str) -> int:
    """Bytes by which the peak of this process grows in one readout at COCO-Object's size."""
    job = coco_object()
    torch.manual_seed(0)
    queries = len(job.query_classes)
    patches = torch.randn(job.plan.num_windows, 14, 14, 512)
    text = torch.randn(queries, 512)
    text = text / text.norm(dim=-1, keepdim=True)
    torch.mm(text, text.T)  # libraries allocate their own buffers at their first use
    before = memory_in_use(reset_peak=True)
    with torch.inference_mode():
        if side == "ours":
            readout = Readout(job.protocol, text, job.query_classes)
            readout.predict(job.plan, job.plan.lay_out(unit(patches) @ text.T))
        else:
            normalised = patches / patches.norm(dim=-1, keepdim=True)
            total = torch.zeros(1, queries, *job.resized)
            for part, (y, x) in zip(
                normalised,
                itertools.product(job.plan.rows.starts, job.plan.columns.starts),
                strict=True,
            ):
                logits = (part @ text.T).permute(2, 0, 1)[None]
                total[:, :, y : y + 224, x : x + 224] += torch.nn.functional.interpolate(
                    logits, size=(224, 224), mode="bilinear"
                )
            whole = torch.nn.functional.interpolate(total, size=job.target, mode="bilinear")[0]
            reference.decide(whole, job.query_classes, 50.0, 0.1)
    return memory_in_use(peak=True) - before


def memory_in_child(side: str) -> int:
    command = [sys.executable, "-m", "benchmarks.run", "--readout-memory", side]
    child = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return int(child.stdout)


def measure(quick: bool, photos: int | None = None, measured: int | None = None) -> dict[str, Any]:
    """All figures of docs/performance.json.

    Args:
        quick: the main ones only, fewer repetitions.
        photos: repetitions; None: as many as each mode takes.
        measured: variants that the reference runs, the rest counting as their mean; None: all.
    """
    full, half = networks()
    small, large = voc20(), coco_object()
    # In quick mode the reference takes some: its variants differ little, and at COCO-Object's names
    # each has the same dense readout.
    few, fewer = (min(measured or 12, 6), min(measured or 12, 2)) if quick else (measured, measured)
    first = compare(small, full, half, VARIANTS, photos or (2 if quick else 7), few)
    second = compare(large, full, None, VARIANTS, photos or (2 if quick else 3), fewer)
    labels_equal, miou_change = trained(32 if quick else 64)
    memory = {side: memory_in_child(side) for side in ("ours", "reference")}
    ratios, object_ratios = first.ratios(), second.ratios()
    figures: dict[str, Any] = {
        **bounds(full, small, photos or (3 if quick else 9)),
        "single_fp32": ratios["single_fp32"],
        "sweep12_fp32": ratios["sweep_fp32"],
        "sweep12_bf16": ratios["sweep_bf16"],
        "single_object_fp32": object_ratios["single_fp32"],
        "sweep12_object_fp32": object_ratios["sweep_fp32"],
        "separate_over_sweep12": ratios["separate_over_sweep"],
        "sweep12_over_cached": cached(full, small, photos or (3 if quick else 9)),
        **diagnostics_shares(full, photos or (3 if quick else 9)),
        "readout_memory_ratio": round(memory["ours"] / memory["reference"], 5),
        "labels_equal_fp32": round(min(first.equal, second.equal), 7),
        "labels_equal_bf16": round(labels_equal, 7),
        "miou_change_bf16": round(miou_change, 4),
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


def bounds(full: Backbone, job: Task, repetitions: int) -> dict[str, Any]:
    """What a variant costs, and what this machine could do at best."""
    limit = bound(full, job, repetitions)
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


def networks() -> tuple[Backbone, Backbone]:
    """ViT-B/16 of random weights in fp32 and bf16."""
    full = load_backbone("ViT-B-16-quickgelu", seed=0, device="cpu")
    half = replace(full, model=copy.deepcopy(full.model))
    lower_precision(half.model, "bf16")
    return full, half


def more() -> dict[str, Any]:
    """Other numbers of variants, classes and pixels, one photo each."""
    full, half = networks()
    found: dict[str, Any] = {}
    jobs = {
        "4 variants": (voc20(), VARIANTS[:4]),
        "150 classes": (task("ade", "sclip_ade20k", (336, 448), (480, 640)), VARIANTS[:4]),
        "171 classes": (task("stuff", "sclip_coco_stuff", (336, 448), (480, 640)), VARIANTS[:4]),
        "560 x 1120": (task("city", "sclip_city_scapes", (560, 1120), (1024, 2048)), VARIANTS[:4]),
        "1500 x 2000": (task("large", "sclip_voc20", (336, 448), (1500, 2000)), VARIANTS[:4]),
    }
    for name, (job, variants) in jobs.items():
        result = compare(job, full, half, variants, 1)
        found[name] = result.report()
    # 24 variants: the twelve, and as many temperatures; the reference's time for each of the
    # latter is its mean over the former.
    warmer = (0.25, 0.6, 0.7, 0.8, 0.9, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
    extra = [load_attention("csa", temperature=temperature) for temperature in warmer]
    found["24 variants"] = compare(voc20(), full, half, VARIANTS, 1, extra=extra).report()
    return found


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the main figures, minutes")
    parser.add_argument(
        "--only",
        choices=("bound", "more", "diagnostics"),
        help="the bound of this machine, other sizes or the diagnostics, put among the figures "
        "in --out",
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
        clock = time.process_time
        torch.set_num_threads(1)
    path = arguments.out / "performance.json"
    if arguments.only:
        photos = arguments.photos or 9
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "bound": lambda: bounds(networks()[0], voc20(), photos),
            "diagnostics": lambda: diagnostics_shares(networks()[0], photos),
            "more": lambda: {"more": more()},
        }
        part = parts[arguments.only]()
        figures = json.loads(path.read_text(encoding="utf-8")) | part
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        report.write(figures, arguments.out)
        return
    machine = report.machine()  # before: the load is that of others
    found = measure(arguments.quick, arguments.photos, arguments.reference_variants)
    options = {"quick": arguments.quick, "clock": arguments.clock, "command": sys.argv[1:]}
    figures = {**machine, **options, **found}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    report.write(figures, arguments.out)
    print(f"wrote {path}, performance.md and performance.png beside it")


if __name__ == "__main__":
    main()
