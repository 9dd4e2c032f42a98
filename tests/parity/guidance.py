"""Methods that look at a second network's features, or at all windows of a photo."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention import adapted
from sclip_lab.attention.guided import guided_map, patch_values, resized
from sclip_lab.attention.windows_together import full_width, photo_weights
from sclip_lab.network.context import Context
from sclip_lab.network.scene import Guidance, Placement, Scene, alone
from sclip_lab.network.text import Text
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.propagation import lab as lab_colours
from sclip_lab.segmentation.propagation import (
    patch_graph,
    propagate_over_patches,
    propagate_over_pixels,
)
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.lposs import propagated
from sclip_lab.segmentation.windows import Plan
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
from tests.parity.vector_set import Arrays, VectorSet

GLA_WEIGHTS = 1e-6
MANY_PATCHES = 800
CROP, STRIDE, PADDED_TO = 224, 112, 56
RULE = "bicubic_offset"
LPOSS = r"text|\w+__(cfg|guidance|preds_in|clip_feats|image|input_hw_crop_stride_ori)"
# What each file of GLA-CLIP was run with.
GLA: dict[str, tuple[str, dict[str, Any]]] = {
    "gla_clearclip": ("gla", {"norm": "photo", "anchors": None}),
    "gla_clearclip_tokennorm": ("gla", {"anchors": None}),
    "gla_clearclip_proxy": ("gla", {}),
    "gla_clearclip_noext": ("clearclip", {}),
    "gla_proxy_release": ("gla_proxy", {}),
    "gla_proxy_smooth": (
        "gla_proxy",
        {
            "anchors": "unit_neighbourhood",
            "include_self": False,
            "rounds": 1,
            "beta": 1.2,
            "dynamic_beta": 0.0,
            "dynamic_gamma": 0.0,
        },
    ),
}
# What meta.json says of one, in the official code's words, is taken from there.
GLA_SAID = {"mini_iters": "rounds", "initial_crit_pos": "threshold"}


def stored(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def one_photo(plan: Plan, guidance: Tensor | None, patch: int) -> Scene:
    """All windows are of one photo."""
    placed = Placement(slice(0, plan.num_windows), plan.corners, plan.resized, patch)
    return Scene((placed,), None if guidance is None else Guidance(lambda: guidance))


@comparison("proxyclip", inputs="beta|gamma|.+__guidance")
@torch.inference_mode()
def proxyclip(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone = toy.network(position_embedding=RULE)
    settings = {key: float(arrays[key]) for key in ("beta", "gamma")}
    variant = lab.load_attention("proxyclip", **settings)
    for one in arrays.inputs():
        features = stored(arrays[f"{one}__guidance"])[None]
        image = toy.image(one)
        scene = Scene(guidance=Guidance(lambda features=features: features))
        [(_, encoding)] = encode(backbone, image, [variant], scene=scene)
        yield close(
            f"{one}__feat", encoding.patches[0].flatten(0, 1), arrays[f"{one}__feat"], FEATURES
        )
        key = f"{one}__attn_rows"
        rows = encoding.state.attention[0, 0, 1:, 1:][arrays.rows(key)]
        yield close(key, rows, arrays[key], WEIGHTS)


@comparison("fsa_proxy", inputs="text|lambda|beta|gamma|.+__guidance")
@torch.inference_mode()
def self_adaptive(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone = toy.network(position_embedding=RULE)
    text = Text.of(stored(arrays["text"]))
    settings = {key: float(arrays[key]) for key in ("beta", "gamma")}
    base = lab.load_attention("proxyclip", **settings)
    variant = lab.load_attention("fsa_proxy", sharpness=float(arrays["lambda"]), **settings)
    for one in arrays.inputs():
        features = stored(arrays[f"{one}__guidance"])[None]
        image, rows = toy.image(one), arrays[f"{one}__rows_index"]
        grid = (features.shape[-2], features.shape[-1])
        scene = Scene(guidance=Guidance(lambda features=features: features))
        for key, of in ((f"{one}__base_feat", base), (f"{one}__feat", variant.given(text))):
            [(_, encoding)] = encode(backbone, image, [of], scene=scene)
            if key in arrays:
                # Near-ties at the cut of a row's share move some rows of a grid finer than CLIP's.
                limit = FEATURES if of is base else 2e-4 if grid == encoding.grid else 2e-3
                yield close(key, encoding.patches[0].flatten(0, 1), arrays[key], limit)
        ctx = Context(encoding.history[-1], encoding.history[:-1], encoding.grid, scene=scene)
        between, expected = guided_map(ctx, settings["beta"], settings["gamma"], "guidance")
        key = f"{one}__base_rows"
        yield close(key, between[0, rows], arrays[key], WEIGHTS)
        value = resized(patch_values(ctx), ctx.grid, expected)
        maps = between[:, None]
        p = adapted.class_distributions(maps, value, ctx.block, ctx.head, text.targets)
        new = adapted.agreement(p, sharpness=float(arrays["lambda"]))[0]
        key = f"{one}__fsa_rows"
        yield close(key, new[rows], arrays[key], WEIGHTS)


@comparison(*GLA, inputs="text|query_idx|guidance|beta|gamma")
@torch.inference_mode()
def gla(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone = toy.network(position_embedding=RULE)
    attention, changed = GLA[name]
    options = {key: float(arrays[key]) for key in ("beta", "gamma") if key in arrays}
    options = options if attention == "gla" else {}  # the others have none, or values of their own
    listed = toy.meta(name).get("cfg") or {}
    if attention != "clearclip" and changed.get("anchors", "") is not None:
        options |= {GLA_SAID[key]: value for key, value in listed.items() if key in GLA_SAID}
    variant = lab.load_attention(attention, **{**changed, **options})
    guidance = stored(arrays["guidance"]) if "guidance" in arrays else None
    for one in arrays.inputs("window_feats"):
        image = toy.inputs[one][0]
        size = (image.shape[-2], image.shape[-1])
        plan = windows.plan(size, size, CROP, STRIDE, backbone.patch_size, multiple=PADDED_TO)
        key = f"{one}__boxes_x1x2y1y2"
        if key in arrays:
            # A box is cut at the photo, where that is narrower than a window.
            boxes = [
                (x, min(x + CROP, size[1]), y, min(y + CROP, size[0]))
                for y in plan.rows.starts
                for x in plan.columns.starts
            ]
            yield unequal(key, torch.tensor(boxes), arrays[key])
        scene = one_photo(plan, guidance, backbone.patch_size)
        [(_, encoding)] = encode(backbone, plan.cut(image), [variant], scene=scene)
        official = arrays[f"{one}__window_feats"]
        flat = encoding.patches.flatten(1, 2)
        # Of many windows every third patch was kept.
        flat = flat[:, ::3] if flat[..., 0].numel() > MANY_PATCHES else flat
        yield close(f"{one}__window_feats", flat, official, FEATURES)
        key = f"{one}__attn_rows"
        if key in arrays:
            weights = gla_weights(encoding, variant.config)
            rows = weights[: len(arrays[key])][:, arrays.rows(key)]
            yield close(key, rows, arrays[key], GLA_WEIGHTS)
            allowed = (weights > 0).sum(dim=-1)
            key = f"{one}__allowed_keys_per_query"
            yield unequal(key, allowed, arrays[key])
        yield from segmented(arrays, one, encoding, plan)


def gla_weights(encoding: Encoded, config: Mapping[str, Any]) -> Tensor:
    """(windows, patches, all patches) of the last block."""
    context = Context(
        encoding.history[-1], encoding.history[:-1], encoding.grid, scene=encoding.scene
    )
    if encoding.scene.guidance is not None:
        raw = encoding.scene.guidance.on(encoding.grid)
    else:
        raw = full_width(context, config["source"])
    [photo] = context.photos
    parameters = list(inspect.signature(photo_weights).parameters)[3:]
    settings = [config[name] for name in parameters]
    weights = torch.cat(list(photo_weights(raw, photo, encoding.grid, *settings)))
    return weights.unflatten(0, raw.shape[:2])


def segmented(arrays: Arrays, one: str, encoding: Encoded, plan: Plan) -> Iterator[Compared]:
    """Stitched cosines and labels: scale 40, pixels below 0.1 are background."""
    text, classes = stored(arrays["text"]), torch.from_numpy(arrays["query_idx"])
    protocol = Protocol(logit_scale=40.0, prob_threshold=0.1)
    readout = Readout(protocol, text, classes)
    laid_out = plan.lay_out(readout.patch_logits(encoding))
    for match, official in arrays.matching(rf"{re.escape(one)}__logits_s(\d+)"):
        step = int(match[1])
        ours = plan.stitch(laid_out)[:, ::step, ::step]
        yield close(match[0], ours, official, LOGITS)
    key = f"{one}__seg_labels"
    yield unequal(key, readout.predict(plan, laid_out), arrays[key], PIXELS)


@comparison("lposs", inputs=LPOSS)
@torch.inference_mode()
def lposs(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    unit = F.normalize(stored(arrays["a__guidance"]), dim=-1)
    scores, patch = stored(arrays["a__preds_in"]), toy.clip.PATCH
    side = round(len(unit) ** 0.5)
    centres = alone(1, (patch * side, patch * side), patch)[0].centres((side, side))
    for fields, official in arrays.matching(r"(\w+)__cfg"):
        scale, power, neighbours, exponent, alpha = official.tolist()
        graph = patch_graph(unit, centres, round(neighbours), exponent, scale, power)
        key = f"{fields[1]}__laplacian_rows"
        laplacian = np.eye(len(unit)) - alpha * graph.toarray()
        rows = arrays[f"{fields[1]}__rows_index"]
        yield close(key, torch.from_numpy(laplacian[rows]), arrays[key], WEIGHTS)
        key = f"{fields[1]}__preds_out"
        yield close(key, propagate_over_patches(graph, scores, alpha), arrays[key], LOGITS)
    if "b__guidance" in arrays:
        yield from lposs_windows(arrays, patch)
    yield from lposs_pixels(arrays, patch)


def lposs_windows(arrays: Arrays, patch: int) -> Iterator[Compared]:
    height, width, crop, stride, *target = arrays["b__input_hw_crop_stride_ori"].tolist()
    plan = windows.plan((height, width), (target[0], target[1]), crop, stride, patch)
    features = stored(arrays["b__guidance"]).permute(0, 3, 1, 2)
    patches = stored(arrays["b__clip_feats"])
    for match, official in arrays.matching(r"b__out_s(\d+)"):
        step = int(match[1])
        whole = best_spread(plan, features, patches, arrays, step, official)
        yield close(match[0], whole[:, ::step, ::step], official, LOGITS)


def lposs_pixels(arrays: Arrays, patch: int) -> Iterator[Compared]:
    image = stored(arrays["c__image"])
    size = (image.shape[1], image.shape[2])
    plan = windows.plan(size, size, None, 1, patch)
    features = stored(arrays["c__guidance"]).permute(2, 0, 1)[None]
    patches, official = stored(arrays["c__clip_feats"])[None], arrays["c_nopix__out"]
    step = round(size[0] / official.shape[1])
    whole = best_spread(plan, features, patches, arrays, step, official)
    yield close("c_nopix__out", whole[:, ::step, ::step], official, LOGITS)
    ours = propagate_over_pixels(lab_colours(image), whole)
    official = arrays["c__out"]
    yield close("c__out", ours, official, 1e-4 * float(np.abs(official).max()))


def best_spread(
    plan: Plan,
    features: Tensor,
    patches: Tensor,
    arrays: Arrays,
    step: int,
    official: np.ndarray,
) -> Tensor:
    """The readout's stitched scores of stored features, with a's settings.

    How many neighbours each patch keeps is in no array. So the counts that the README's set was
    run with come first, and then all others; that which fits best is taken.
    """
    logits = F.normalize(patches, dim=-1) @ stored(arrays["text"]).T
    scene = one_photo(plan, features, plan.rows.patch)
    scale, power, _, exponent, alpha = arrays["a__cfg"].tolist()
    nodes = logits[..., 0].numel()
    best = None
    for count in dict.fromkeys((150, 20, *range(10, nodes + 1, 10))):
        if count > nodes:
            continue
        spread = propagated(logits, scene, (count, exponent, scale, power), alpha, 10)
        whole = plan.stitch(plan.lay_out(spread))
        error = close("", whole[:, ::step, ::step], official, LOGITS).error
        if best is None or error < best[0]:
            best = error, whole
        if error <= LOGITS:
            break
    assert best is not None
    return best[1]
