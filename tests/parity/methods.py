"""The methods of 2026 that need no second network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention import adapted, dih, scclip
from sclip_lab.attention.variant import Variant
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context
from sclip_lab.network.text import Text
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import unit
from sclip_lab.segmentation.readouts.radseg import aggregated
from sclip_lab.segmentation.refinements.laplacian import propagation, text_affinity
from sclip_lab.segmentation.thresholds import entropy_thresholds
from tests.parity.compare import (
    FEATURES,
    LOGITS,
    PIXELS,
    WEIGHTS,
    Compared,
    close,
    comparison,
    unequal,
)
from tests.parity.features import last_block, run
from tests.parity.segmentors import CROP, STRIDE, Run, best_input, probabilities
from tests.parity.vector_set import Arrays, VectorSet

PEARL: dict[str, dict[str, Any]] = {
    "pearl": {},
    "pearl_keep": {"residual": True, "mlp": True},
    "pearl_svd": {"rounds": None},
    "pearl_nokk": {"key_share": 0.0},
    "pearl_polar10": {"rounds": 10},
}
SCGA = {"_target_": "sclip_lab.segmentation.readouts.radseg.scga"}
TLP = {"_target_": "sclip_lab.segmentation.refinements.laplacian.propagation"}
FULL_MAP = 2e-5
PROPAGATED = 2e-4
SOLVED_PROBABILITIES = 1e-3  # 25 unconverged steps amplify noise
MAPS = 1e-6
STEP_16 = 16


def of_input(
    toy: VectorSet, arrays: Arrays, one: str, backbone: Backbone, variant: Variant, limit: float
) -> Iterator[Compared]:
    """``feat``, ``cls``, and rows of attention of one input."""
    image = toy.inputs[one]
    ours = dense_features(backbone, image, variant)[0].flatten(0, 1)
    yield close(f"{one}__feat", ours[arrays.rows(f"{one}__feat")], arrays[f"{one}__feat"], limit)
    state, class_embedding = run(backbone, variant, image)
    if f"{one}__cls" in arrays:
        yield close(f"{one}__cls", class_embedding[0], arrays[f"{one}__cls"], limit)
    for key in (f"{one}__attn", f"{one}__attn_rows"):
        if key in arrays:
            rows = arrays.rows(key) if key.endswith("rows") else slice(None)
            yield close(key, state.attention[0][:, rows], arrays[key], WEIGHTS)


@comparison(*PEARL)
def pearl(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    variant = lab.load_attention("pearl", **PEARL[name])
    limit = 2e-4 if name == "pearl_polar10" else FEATURES
    for one in arrays.inputs():
        yield from of_input(toy, arrays, one, toy.network(), variant, limit)


@comparison("scra", "scra_s3", inputs="scaling")
@torch.inference_mode()
def scra(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, scaling = toy.network(), float(arrays["scaling"])
    variant = lab.load_attention("scra", scaling=scaling)
    keep = lab.load_attention("scra", scaling=scaling, residual=True, mlp=True)
    for one in arrays.inputs():
        yield from of_input(toy, arrays, one, backbone, variant, FEATURES)
        patches = dense_features(backbone, toy.inputs[one], keep).flatten(1, 2)
        key = f"{one}__feat_keep"
        yield close(key, patches[0][arrays.rows(key)], arrays[key], FEATURES)
        key = f"{one}__scga_feat"
        if key in arrays:
            yield close(key, aggregated(patches)[0][arrays.rows(key)], arrays[key], FEATURES)


@comparison("dih_h8top4", "dih_h2top1", "dih_h2top4", inputs="heads|topk|.+__gain")
@torch.inference_mode()
def heads_by_entropy(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    heads, chosen = int(arrays["heads"]), int(arrays["topk"])
    backbone = with_heads(toy, heads)
    variant = lab.load_attention("dih", heads=chosen)
    for one in arrays.inputs():
        image = float(arrays[f"{one}__gain"]) * toy.inputs[one]
        key = f"{one}__feat"
        ours = dense_features(backbone, image, variant)[0].flatten(0, 1)
        yield close(key, ours[arrays.rows(key)], arrays[key], FEATURES)
        ctx = replace(last_block(backbone, image), class_token=False)
        plain = [dih.entropies(entered.attention()) for entered in ctx.history]
        ours = torch.cat([*plain, *entropies_of_passes(ctx, chosen)])
        yield close(f"{one}__entropies", ours, arrays[f"{one}__entropies"], 5e-3)


def entropies_of_passes(ctx: Context, chosen: int) -> list[Tensor]:
    near = dih.cosine(dih.by_heads(ctx, "9/12", chosen))
    entering = dih.averaged(ctx.tokens, dih.cut_below(near, 0.4))
    per_head = []
    for tokens in (entering, scclip.sum_of_layers(ctx, ("4/12", "10/12"))):
        inner = replace(ctx, input=BlockInput(ctx.block, tokens))
        weights = dih.with_similarity(inner, near, ("key",), 3.0)
        per_head.append(dih.entropies(weights[:, :, 1:, 1:]))
    return per_head


def with_heads(toy: VectorSet, heads: int) -> Backbone:
    """The toy's weights read as so many heads of the image tower."""
    from sclip_lab.network.architecture import infer_architecture

    architecture = infer_architecture(toy.weights)
    vision = architecture["vision_cfg"]
    vision["head_width"] = vision["width"] // heads
    return toy.network(architecture=architecture, quick_gelu=True)


@comparison("fsa_qq", "fsa_kk", inputs="text|lambda")
@torch.inference_mode()
def self_adaptive(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, sharpness = toy.network(), float(arrays["lambda"])
    text = torch.from_numpy(arrays["text"])
    variant = lab.load_attention(name, mix={"sharpness": sharpness})
    base = lab.load_attention(name, mix=None)
    for one in arrays.inputs():
        image = toy.inputs[one]
        for key, of in ((f"{one}__base_feat", base), (f"{one}__feat", variant)):
            ours = dense_features(backbone, image, of, text=text)[0].flatten(0, 1)
            limit = 2e-4 if of is variant else FEATURES
            yield close(key, ours[arrays.rows(key)], arrays[key], limit)
        state, _ = run(backbone, base, image)
        ctx = last_block(backbone, image)
        between, value = state.attention[:, :, 1:, 1:], ctx.value[:, :, 1:]
        p = adapted.class_distributions(between, value, ctx.block, ctx.head, text)
        new = adapted.agreement(p, sharpness=sharpness)[0]
        key, rows = f"{one}__fsa_rows", arrays[f"{one}__rows_index"]
        yield close(key, new[rows], arrays[key], WEIGHTS)


CDAM = {"cdam_maskclip": "cdam", "cdam_sclip": "cdam_sclip", "cdam_vanilla": "cdam_vanilla"}


@comparison(*CDAM, inputs="text|num_target")
@torch.inference_mode()
def class_distribution_maps(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, every, targets = toy.network(), *texts_of(arrays)
    text = Text(targets, every[len(targets) :])
    variant = lab.load_attention(CDAM[name]).given(text)
    base = lab.load_attention(CDAM[name], mix=None)
    for one in arrays.inputs():
        image = toy.inputs[one]
        for key, of in ((f"{one}__base_feat", base), (f"{one}__feat", variant)):
            features = dense_features(backbone, image, of)[0]
            ours = features.flatten(0, 1)
            yield close(key, ours[arrays.rows(key)], arrays[key], FEATURES)
        state, _ = run(backbone, variant, image)
        key = f"{one}__attn_rows"
        yield close(key, state.attention[0, 0][arrays.rows(key)], arrays[key], WEIGHTS)
        if f"{one}__attn" in arrays:
            yield close(f"{one}__attn", state.attention[0, 0], arrays[f"{one}__attn"], FULL_MAP)
        cosines = unit(features) @ targets.T
        threshold = entropy_thresholds(cosines.flatten(0, 1)[None])[0]
        yield close(f"{one}__prob_thd", threshold, arrays[f"{one}__prob_thd"], WEIGHTS)
        key = f"{one}__logits_s16"
        if key in arrays:
            whole = F.interpolate(cosines.permute(2, 0, 1)[None], image.shape[-2:], mode="bilinear")
            yield close(key, whole[0, :, ::STEP_16, ::STEP_16], arrays[key], LOGITS)


def texts_of(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """(all rows, those that pixels are labelled with)."""
    every = torch.from_numpy(arrays["text"])
    return every, every[: int(arrays["num_target"])]


@comparison("cdam_segmentor", inputs="text|num_target|query_idx|ori_shape|.+__logit_scale")
def cdam_segmentor(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """a, b: targets and auxiliary words; c: all rows are targets, in classes of two."""
    backbone, every, targets = toy.network(), *texts_of(arrays)
    size = tuple(arrays["ori_shape"].tolist())
    for case in sorted({key[0] for key in arrays if "__seg_labels" in key}):
        key = f"{case}__seg_labels"
        official, scale = arrays[key], float(arrays[f"{case}__logit_scale"])
        keys = [k for k in arrays if k.startswith(f"{case}__seg_probs_s")]
        two = bool(keys) and len(arrays[keys[0]]) > len(set(arrays["query_idx"].tolist()))
        text = Text.of(every) if two else Text(targets, every[len(targets) :])
        classes = np.arange(len(every)) // 2 if two else arrays["query_idx"]
        variant = lab.load_attention("cdam").given(text)
        threshold = {"_target_": "sclip_lab.segmentation.thresholds.entropy"}
        protocol = Protocol(logit_scale=scale, prob_threshold=threshold)

        def of(one: str, variant: Variant = variant, text: Text = text) -> Run:
            image = toy.inputs[one][0]
            return Run(backbone, variant, image, size, CROP, STRIDE, text.targets)

        def error(
            one: str,
            of: Any = of,
            official: Any = official,
            classes: Any = classes,
            protocol: Protocol = protocol,
        ) -> float:
            return float((of(one).labels(classes, protocol) != official).sum())

        result = of(best_input(toy, toy.meta(name).get("input"), error))
        yield unequal(key, result.labels(classes, protocol), official, PIXELS)
        cosines = unit(result.encoded.patches).flatten(1, 2) @ text.targets.T
        thd = float(entropy_thresholds(cosines)[-1])
        key = f"{case}__last_window_thd"
        yield close(key, thd, arrays[key], WEIGHTS)
        for probs in keys:
            step = int(probs.rpartition("_s")[2])
            maps = probabilities(result.stitched, classes, scale)
            yield close(probs, maps[:, ::step, ::step], arrays[probs], 1e-4)


@comparison("pearl_tlp", inputs="text|a__image|a__logits|c__logits_coarse")
def propagated(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    text = torch.from_numpy(arrays["text"])
    yield close("S", text_affinity(text, "full"), arrays["S"], 1e-6)
    if "a__image" in arrays:
        yield from of_one_photo(arrays, text)
    if "c__out_s4" not in arrays:
        return
    coarse, official = torch.from_numpy(arrays["c__logits_coarse"]), arrays["c__out_s4"]

    def ours(one: str) -> np.ndarray:
        image = toy.inputs[one][0]
        whole = F.interpolate(coarse[None], image.shape[-2:], mode="bilinear")[0]
        return propagation(whole, image, text)[:, ::4, ::4].numpy()

    def error(one: str) -> float:
        return close("", ours(one), official, 0).error

    one = best_input(toy, toy.meta(name).get("c input"), error)
    pooled = [max(1, round(side / 80)) for side in toy.inputs[one].shape[-2:]]
    yield unequal("c__scale", np.array(pooled), arrays["c__scale"])
    yield close("c__out_s4", ours(one), official, PROPAGATED)


def of_one_photo(arrays: Arrays, text: Tensor) -> Iterator[Compared]:
    image, logits = (torch.from_numpy(arrays[f"a__{key}"]) for key in ("image", "logits"))
    size = image.shape[-2:]
    yield close("a__out", propagation(logits, image, text), arrays["a__out"], PROPAGATED)
    pooled = [round(side / 20) for side in size]
    yield unequal("b__scale", np.array(pooled), arrays["b__scale"])
    yield close("b__out", propagation(logits, image, text, side=20), arrays["b__out"], PROPAGATED)
    yield close("d__out_notext", propagation(logits, image), arrays["d__out_notext"], PROPAGATED)
    for match, official in arrays.matching(r"e__out_(\d+)classes"):
        few = int(match[1])
        ours = propagation(logits[:few], image, text[:few])
        yield close(match[0], ours, official, PROPAGATED)


@comparison("pearl_segmentor", inputs="text|query_idx|.+__cfg")
def pearl_segmentor(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, text, classes = toy.network(), torch.from_numpy(arrays["text"]), arrays["query_idx"]
    variant = lab.load_attention("pearl")
    for case in arrays.inputs("cfg"):
        crop, refine, scale, threshold, *size = arrays[f"{case}__cfg"].tolist()
        target = int(size[0]), int(size[1])
        fields = {"logit_scale": scale, "prob_threshold": round(threshold, 6)}
        protocol = Protocol(**fields, refinement=TLP if refine else None)
        official = arrays[f"{case}__seg_labels"]

        def of(one: str, crop: float = crop, target: Any = target) -> Run:
            image = toy.inputs[one][0]
            return Run(backbone, variant, image, target, int(crop) or None, STRIDE, text)

        def error(
            one: str, of: Any = of, protocol: Protocol = protocol, official: Any = official
        ) -> float:
            return float((of(one).labels(classes, protocol) != official).sum())

        one = of(best_input(toy, toy.meta(name).get("input"), error))
        key = f"{case}__seg_labels"
        yield unequal(key, one.labels(classes, protocol), official, PIXELS)
        key = f"{case}__seg_probs_s4"
        if key in arrays:
            maps = torch.from_numpy(one.stitched)
            if refine:
                image = F.interpolate(one.image[None], target, mode="bilinear")[0]
                maps = propagation(maps, image, text)
            maps = probabilities(maps.numpy(), classes, scale)
            maps = maps / maps.sum(0)
            yield close(key, maps[:, ::4, ::4], arrays[key], SOLVED_PROBABILITIES)
