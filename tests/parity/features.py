"""Features and attention rows of a variant by itself: the files of tests/parity_cases.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import yaml
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention import repair
from sclip_lab.attention.gem import gem
from sclip_lab.attention.similarity import cosine, cut_below, with_similarity
from sclip_lab.attention.variant import Variant
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context, State
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.refinements.cliptrase import self_correlation
from tests import vectors
from tests.parity.compare import (
    FEATURES,
    HALF_FEATURES,
    WEIGHTS,
    Compared,
    close,
    comparison,
    unequal,
)
from tests.parity.vector_set import Arrays, VectorSet

CASES: dict[str, dict[str, Any]] = yaml.safe_load((vectors.HERE / "parity_cases.yaml").read_text())
PROJECTIONS = {"v": "value", "k": "key", "q": "query"}


def setup(toy: VectorSet, case: Mapping[str, Any]) -> tuple[Backbone, Variant]:
    arguments = {"position_embedding": case["position_embedding"], **case.get("backbone", {})}
    variant = lab.load_attention(case["attention"], **case.get("overrides", {}))
    return toy.network(**arguments), variant


@torch.inference_mode()
def run(backbone: Backbone, variant: Variant, image: Tensor) -> tuple[State, Tensor]:
    """(state behind the last block, class embedding)."""
    grid = backbone.grid(*image.shape[-2:])
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(image), grid, [variant])
    return state, backbone.project(state, grid)[1]


@torch.inference_mode()
def last_block(backbone: Backbone, images: Tensor) -> Context:
    """The last block of the network as trained, as a variant sees it."""
    tokens = backbone.embed(images)
    entered = []
    for block in backbone.blocks:
        entered.append(BlockInput(block, tokens))
        tokens = block.plain(tokens)
    return Context(entered[-1], tuple(entered[:-1]), backbone.grid(*images.shape[-2:]))


def features_limit(backbone: Backbone, image: Tensor) -> float:
    trained = (backbone.image_size, backbone.image_size) == tuple(image.shape[-2:])
    half = backbone.position_embedding == "bilinear_half" and not trained
    return HALF_FEATURES if half else FEATURES


@comparison(*CASES)
def of_a_variant(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """``feat``, ``cls`` and ``ori_cls`` (of the stream that is read out, and of the trained one),
    ``attn`` and rows of it."""
    backbone, variant = setup(toy, CASES[name])
    for one in arrays.inputs():
        image = toy.inputs[one]
        limit = features_limit(backbone, image)
        ours = dense_features(backbone, image, variant)[0].flatten(0, 1)
        rows = arrays.rows(f"{one}__feat")
        yield close(f"{one}__feat", ours[rows], arrays[f"{one}__feat"], limit)
        state, class_embedding = run(backbone, variant, image)
        if f"{one}__ori_cls" in arrays:
            key = f"{one}__ori_cls"
            yield close(key, class_embedding[0], arrays[key], limit)
            read_out = State(state.readout)
            class_embedding = backbone.project(read_out, backbone.grid(*image.shape[-2:]))[1]
        if f"{one}__cls" in arrays:
            yield close(f"{one}__cls", class_embedding[0], arrays[f"{one}__cls"], limit)
        if state.attention is not None:
            if f"{one}__attn" in arrays:
                yield close(f"{one}__attn", state.attention[0], arrays[f"{one}__attn"], WEIGHTS)
            if f"{one}__attn_rows" in arrays:
                key = f"{one}__attn_rows"
                yield close(key, state.attention[0][:, arrays.rows(key)], arrays[key], WEIGHTS)


@comparison("cliper")
def without_rounded_position_embeddings(
    toy: VectorSet, name: str, arrays: Arrays
) -> Iterator[Compared]:
    _, variant = setup(toy, CASES[name])
    backbone = toy.network(position_embedding="bilinear")
    for one in arrays.inputs("feat_without_half_posemb"):
        key = f"{one}__feat_without_half_posemb"
        ours = dense_features(backbone, toy.inputs[one], variant)[0].flatten(0, 1)
        yield close(key, ours[arrays.rows(key)], arrays[key], FEATURES)


@comparison("cliper")
def levels(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """CLIPer's features of the levels below the last."""
    backbone, _ = setup(toy, CASES[name])
    for match, official in arrays.matching(r"(.+)__layer(\d+)_feat(_first\d+)?"):
        target = "sclip_lab.attention.cliper.level"
        level = lab.attention.variant.build({"_target_": target, "source": int(match[2]) - 1})
        image = toy.inputs[match[1]]
        ours = dense_features(backbone, image, level)[0].flatten(0, 1)
        rows = arrays.rows(match[0])
        ours = ours[: len(official)] if match[3] else ours[rows]
        yield close(match[0], ours, official, features_limit(backbone, image))


@comparison("gem", "gem_depth4", "gem_iter0", "gem_iter2", "gem_temp10")
def of_each_projection(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    case = CASES[name]
    backbone, _ = setup(toy, case)
    settings = {k: v for k, v in case.get("overrides", {}).items() if k != "layers"}
    for match, official in arrays.matching(r"(.+)__([vkq])_attn_rows"):
        ctx = last_block(backbone, toy.inputs[match[1]])
        with torch.inference_mode():
            weights = gem(ctx, [PROJECTIONS[match[2]]], **settings)[0]
        yield close(match[0], weights[:, arrays.rows(match[0])], official, WEIGHTS)


@comparison("clip_surgery")
def trained_stream(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES[name])
    for one in arrays.inputs("ori_feat"):
        state, _ = run(backbone, variant, toy.inputs[one])
        key = f"{one}__vv_attn_rows"
        if key in arrays:
            yield close(key, state.attention[0][:, arrays.rows(key)], arrays[key], WEIGHTS)
        key = f"{one}__ori_feat"
        with torch.inference_mode():
            ours = backbone.head(state.tokens)[0, 1:]
        yield close(key, ours[arrays.rows(key)], arrays[key], FEATURES)


@comparison("cliptrase")
def self_correlations(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """Of block 11 or 12, counted from 1."""
    for match, official in arrays.matching(r"(.+)__selfcorr(\d+)(_attn_rows)?"):
        ctx = last_block(toy.network(), toy.inputs[match[1]])
        with torch.inference_mode():
            ours = self_correlation((*ctx.history, ctx.input)[int(match[2]) - 1])[0]
        if match[3]:
            ours = ours[arrays.rows(match[0])][None]
        yield close(match[0], ours, official, WEIGHTS)


@comparison("scclip", "sfp", "sfp_l2", "sfp_lof")
def outliers_and_both_passes(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES[name])
    for one in arrays.inputs("outliers"):
        ctx = last_block(backbone, toy.inputs[one])
        with torch.inference_mode():
            patches = ctx.tokens[:, 1:]
            if name == "sfp":
                mask = repair.class_attention_mask(ctx.earlier("11/12").attention())
            elif name == "sfp_l2":
                mask = repair.norm_mask(patches)
            else:
                mask = repair.lof_mask(patches)
            ours = mask[0].nonzero().flatten()
            yield unequal(f"{one}__outliers", ours, sorted_copy(arrays[f"{one}__outliers"]))
            if f"{one}__lof_scores" in arrays:
                scores = repair.lof_scores(patches)[0]
                yield close(f"{one}__lof_scores", scores, arrays[f"{one}__lof_scores"], WEIGHTS)
            key = f"{one}__main_attn_rows"
            state, _ = run(backbone, variant, toy.inputs[one])
            ours = state.attention[0, :, 1:, 1:][:, arrays.rows(key)]
            yield close(key, ours, arrays[key], WEIGHTS)
            key = f"{one}__multi_attn_rows"
            ours = second_pass(ctx, variant)[0, :, 1:, 1:][:, arrays.rows(key)]
            yield close(key, ours, arrays[key], WEIGHTS)


def second_pass(ctx: Context, variant: Variant) -> Tensor:
    """SC-CLIP's or SFP's weights on the sum of the middle layers."""
    config = variant.config
    find = config["repair"]["_target_"].rpartition(".")[2]
    options = {k: v for k, v in config["repair"].items() if k not in ("_target_", "tokens")}
    fixed = getattr(repair, find)(ctx, tokens=ctx.after(config["similarity_layer"]), **options)
    near = cosine(fixed)
    if config["cut_scores"]:
        near = cut_below(near, config["cut"])
    summed = torch.stack([ctx.after(f"{i}/12") for i in range(4, 11)]).sum(0)
    inner = replace(ctx, input=BlockInput(ctx.block, summed), class_token=False)
    return with_similarity(inner, near, config["second_projections"], config["sharpness"])


def sorted_copy(array: Any) -> Any:
    return array[array.argsort()]
