"""Measure what parts of a sweep cost, and what this machine could do at best."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.tasks import (
    VARIANTS,
    Task,
    load_photos,
    load_variants,
    random_text,
    spread,
    sweep,
    timed,
)
from sclip_lab import diagnostics
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import (
    conf_dir,
    load_backbone,
    load_dataset,
    load_protocol,
)
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.evaluation.recorder import Observer
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context, State
from sclip_lab.network.linear import Linear
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import encode


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
def bound(backbone: Backbone, fast: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Median seconds of the trunk, of all last blocks, and of evaluations of one and all variants.

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

    stages = ("trunk", "last_blocks", "single", "sweep", "single_fast")
    by_stage: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(repetitions + 1):
        seconds, history = timed(trunk)
        by_stage["trunk"].append(seconds)
        by_stage["last_blocks"].append(sum(timed(alone, history, v)[0] for v in variants))
        by_stage["single"].append(timed(sweep, backbone, photo, job, text, variants[:1])[0])
        by_stage["single_fast"].append(timed(sweep, fast, photo, job, text, variants[:1])[0])
        by_stage["sweep"].append(timed(sweep, backbone, photo, job, text, variants)[0])
    return {stage: statistics.median(values[1:]) for stage, values in by_stage.items()}


@torch.inference_mode()
def cached(backbone: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Seconds of our sweep over those of one that reads and checks the trunk's tokens from disk.

    The file was written just before, so that it is read from the system's memory.
    """
    photo = load_photos(backbone, job.resized, 1)[0]
    text = random_text(len(job.query_classes), backbone.embed_dim)
    variants = load_variants(VARIANTS)
    common = (backbone, photo, job, text, variants)
    level = min(variant.first(backbone.depth) for variant in variants)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        cache = TrunkCache(folder, 1.0)
        _, encoded = next(encode(backbone, job.plan.cut(photo), variants))
        cache.save("photo", encoded.history[level].tokens)
        del encoded
        for _ in range(repetitions + 1):
            computed = timed(sweep, *common)[0]

            def trunk() -> tuple[int, Tensor]:
                tokens = cache.load("photo")
                assert tokens is not None
                return level, tokens

            ratios.append(computed / timed(sweep, *common, trunk)[0])
    return spread(ratios[1:])


@torch.inference_mode()
def diagnosed(backbone: Backbone, job: Task, repetitions: int) -> dict[str, float]:
    """Share of a sweep's time that the default diagnostics add where a photo is measured.

    Sweeps with and without diagnostics are timed in turns on one photo. Labels are blocks of four
    classes, as many per window as a photo has.
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
            observed = diagnostics.Observation(
                encoded.state.attention,
                encoded.patches,
                encoded.class_embedding,
                labels,
                plan.grid,
                backbone.patch_size,
            )
            list(
                diagnostics.values(
                    diagnostics.MEASURES, default_diagnostics()["measures"], observed
                )
            )

    shares = []
    for _ in range(repetitions + 1):
        alone = timed(sweep, backbone, photo, job, text, variants)[0]
        shares.append(timed(measured)[0] / alone - 1)
    return spread(shares[1:])


def diagnosed_world(repetitions: int) -> dict[str, float]:
    """Share of `evaluate`'s time, files included, that the default diagnostics add on the embedded
    world: all photos, as many of them measured as conf/diagnostics/default.yaml says."""
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
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings
