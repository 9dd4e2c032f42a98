"""Readouts and refinements: what they make of features, against the official codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sclip_lab as lab
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.readouts import resclip as feedback
from sclip_lab.segmentation.readouts.cliper import cliper
from sclip_lab.segmentation.readouts.maskclip import (
    key_smoothing,
    prompt_denoising,
    smoothing_keys,
)
from sclip_lab.segmentation.readouts.surgery import (
    surgery,
    surgery_logits,
)
from sclip_lab.segmentation.refinements import cliptrase as clustering
from sclip_lab.segmentation.refinements.pamr import pamr
from tests.parity.compare import (
    FEATURES,
    PIXELS,
    PROBABILITIES,
    Compared,
    close,
    comparison,
    unequal,
)
from tests.parity.features import CASES, last_block, run, setup
from tests.parity.vector_set import Arrays, VectorSet

SIMILARITIES = 5e-6
FEEDBACK_FEATURES = 1e-3  # the feedback is rounded to half precision
# ResCLIP's settings by the end of a file's name; what has none runs with VOC21's.
FEEDBACK = {"context59": {"share": 0.7, "gain": 1.8, "threshold": 0.25}}
VOC21 = {"share": 0.7, "gain": 2.2, "threshold": 0.5}
RESCLIP: dict[str, tuple[str, dict[str, Any]]] = {
    "resclip_full_voc21": ("resclip", {}),
    "resclip_full_context59": ("resclip", {"mix": {"share": 0.4}}),
    "resclip_full_sclip": ("resclip_sclip", {}),
    "resclip_sfr_only": ("naclip", {}),
}


def encoded(backbone: Any, images: Tensor, variant: Any) -> Encoded:
    """Images behind the network, each as one window."""
    with torch.inference_mode():
        [(_, one)] = encode(backbone, images, [variant])
    return one


@comparison("clip_surgery")
@torch.inference_mode()
def feature_surgery(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES[name])
    text = toy.text()
    for one in arrays.inputs("sim_plain"):
        encoding = encoded(backbone, toy.inputs[one], variant)
        tokens = torch.cat(
            [encoding.class_embedding[:, None], encoding.patches.flatten(1, 2)], dim=1
        )
        f = F.normalize(tokens, dim=-1)
        logits = surgery_logits(f, text)
        yield close(f"{one}__sim_plain", (f @ text.T)[0], arrays[f"{one}__sim_plain"], SIMILARITIES)
        key = f"{one}__sim_surgery"
        yield close(key, logits[0], arrays[key], SIMILARITIES)
        by_readout = torch.cat([logits[0, :1], surgery(encoding, text).flatten(1, 2)[0]])
        yield close(key, by_readout, arrays[key], SIMILARITIES)
        key = f"{one}__sim_redundant"
        yield close(key, (f @ (text - text.mean(0)).T)[0], arrays[key], SIMILARITIES)
        for match, maps in arrays.matching(rf"{one}__map_surgery_(\d+)x(\d+)"):
            size = int(match[1]), int(match[2])
            ours = stretched_maps(logits, encoding.grid, size)[0].permute(1, 2, 0)
            yield close(match[0], ours, maps, PROBABILITIES)


def stretched_maps(logits: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Each text's patches stretched to 0 .. 1 and resized: (batch, texts, height, width)."""
    patches = logits[:, 1:].mT
    low, high = patches.amin(-1, keepdim=True), patches.amax(-1, keepdim=True)
    maps = ((patches - low) / (high - low).clamp_min(1e-12)).unflatten(2, grid)
    return F.interpolate(maps, size, mode="bilinear")


@comparison("cliper")
@torch.inference_mode()
def cliper_fusion(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES[name])
    pattern = r"(.+)__seg_(\d+)fg_(\d+)bg_scale([\d.]+)_thr([\d.]+)"
    for fields, official in arrays.matching(pattern):
        names, background = int(fields[2]), int(fields[3])
        text = toy.text(names + background).roll(background, 0)  # the background's come first
        one = encoded(backbone, toy.inputs[fields[1]], variant)
        settings = float(fields[4]), float(fields[5])
        ours = cliper(one, text, *settings, background=background)[0, ..., background:]
        yield close(fields[0], ours.permute(2, 0, 1), official, PROBABILITIES)


@comparison("cliper")
@torch.inference_mode()
def cliper_windows(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """Windows that count half; texts and settings are those of the file's other maps."""
    backbone, variant = setup(toy, CASES[name])
    others = arrays.matching(r"(.+)__seg_(\d+)fg_(\d+)bg_scale([\d.]+)_thr([\d.]+)")
    _, names, background, *settings = next(others)[0].groups()
    for fields, official in arrays.matching(r"(.+)__seg_sliding(\d+)"):
        total = int(names) + int(background)
        count = total - len(official)
        text = toy.text(total).roll(count, 0)
        one = encoded(backbone, toy.inputs[fields[1]], variant)
        ours = cliper(one, text, *map(float, settings), int(fields[2]), background=count)
        yield close(fields[0], ours[0, ..., count:].permute(2, 0, 1), official, PROBABILITIES)


@comparison("maskclip_original", "maskclip_original_quickgelu")
@torch.inference_mode()
def maskclip_head(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES[name])
    for one in arrays.inputs("unmodified_feat"):
        image = toy.inputs[one]
        key = f"{one}__unmodified_feat"
        ours = dense_features(backbone, image, lab.load_attention("vanilla"))[0].flatten(0, 1)
        yield close(key, ours[arrays.rows(key)], arrays[key], FEATURES)
        keys = smoothing_keys(last_block(backbone, image).input)
        yield close(f"{one}__key_out_proj", keys[0], arrays[f"{one}__key_out_proj"], FEATURES)
    for one in arrays.inputs("head_logits"):
        image = toy.inputs[one]
        f = dense_features(backbone, image, variant, normalize=True)
        logits = (f @ toy.text().T).permute(0, 3, 1, 2)
        keys = smoothing_keys(last_block(backbone, image).input)
        yield close(f"{one}__head_logits", logits[0], arrays[f"{one}__head_logits"], SIMILARITIES)
        for match, official in arrays.matching(rf"{one}__head_pd([\d.]+)"):
            ours = prompt_denoising(logits, threshold=float(match[1]))
            yield close(match[0], ours[0], official, SIMILARITIES)
        for match, official in arrays.matching(rf"{one}__head_ks([\d.]+)"):
            ours = key_smoothing(logits, keys, float(match[1]))
            yield close(match[0], ours[0], official, PROBABILITIES)


@comparison(*RESCLIP)
@torch.inference_mode()
def semantic_feedback(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    attention, overrides = RESCLIP[name]
    case = {
        "attention": attention,
        "overrides": overrides,
        "position_embedding": "bicubic_offset",
    }
    backbone, variant = setup(toy, case)
    settings = FEEDBACK.get(name.rpartition("_")[2], VOC21)
    text = toy.text()
    for one in arrays.inputs():
        image = toy.inputs[one]
        first = encoded(backbone, image, variant)
        second = feedback.second_pass(
            first, text, scale=40.0, steps=10, dilations=(8, 16), **settings
        )
        ours = second.patches[0].flatten(0, 1)
        key = f"{one}__feat"
        yield close(key, ours[arrays.rows(key)], arrays[key], FEEDBACK_FEATURES)
        key = f"{one}__cls"
        yield close(key, second.class_embedding[0], arrays[key], FEEDBACK_FEATURES)
        features = dense_features(backbone, image, variant)[0]
        probabilities = feedback.first_prediction(image[0], features, text)
        key = f"{one}__sfr_prob_s8"
        if key in arrays:
            yield close(key, probabilities[:, ::8, ::8], arrays[key], PROBABILITIES)
        labels = feedback.patch_labels(probabilities, backbone.patch_size, settings["threshold"])
        key = f"{one}__sfr_patch_labels"
        yield unequal(key, labels, arrays[key])
        key, index = f"{one}__sfr_attn_rows", arrays.rows(f"{one}__attn_rows")
        rows = feedback.feedback_weights(labels)[index]
        yield close(key, rows, arrays[key], 1e-7)
        key = f"{one}__attn_rows"
        yield close(key, second.state.attention[0][:, index], arrays[key], FEEDBACK_FEATURES)


@comparison("cliptrase_pipeline")
@torch.inference_mode()
def clusters_and_votes(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, variant = setup(toy, CASES["cliptrase"])
    for fields, official in arrays.matching(r"(.+)__eps([\d.]+)_min(\d+)__dbscan"):
        ctx = last_block(toy.network(), toy.inputs[fields[1]])
        affinity = clustering.affinity(clustering.self_correlation(ctx.history[-1])[0])
        ours = clustering.clusters(affinity, float(fields[2]), int(fields[3]))
        yield unequal(fields[0], ours, official)
    for fields, official in arrays.matching(r"([^_]+)__(.+)__eps([\d.]+)_min(\d+)__pred"):
        image, foreground = toy.inputs[fields[2]], 6
        # VOC21 has its background words as classes of their own; the others collapse them to C.
        text = toy.text() if fields[1] == "VOC21" else toy.text()[:foreground]
        features = dense_features(backbone, image, variant, normalize=True)[0]
        logits = features @ text.T
        if fields[1] == "VOC20":
            class_embedding = run(backbone, variant, image)[1][0]
            logits = logits * (class_embedding @ text.T / class_embedding.norm())
        logits = F.interpolate(logits.permute(2, 0, 1)[None], image.shape[-2:], mode="bilinear")
        prediction = logits[0].argmax(dim=0)
        one = encoded(backbone, image, variant)
        voted = clustering.cliptrase(prediction, one, float(fields[3]), int(fields[4]))
        yield unequal(fields[0], voted.clamp(max=foreground), official, PIXELS)


@comparison("pamr", inputs="image|mask_.+")
def refined(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    image = torch.from_numpy(arrays["image"])[0]
    for fields, official in arrays.matching(r"out_(.+)_it(\d+)_d([\d-]+)"):
        mask = torch.from_numpy(arrays[f"mask_{fields[1]}"])[0].float()
        dilations = [int(d) for d in fields[3].split("-")]
        ours = pamr(image, mask, int(fields[2]), dilations)
        yield close(fields[0], ours[None], official, 2e-5)
