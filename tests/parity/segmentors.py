"""From image to labels against the official evaluators of SCLIP, NACLIP and ITACLIP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention.variant import Variant
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import views, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.segmentation.protocol import Protocol
from tests.parity.compare import (
    FEATURES,
    LOGITS,
    PIXELS,
    PROBABILITIES,
    Compared,
    close,
    comparison,
    difference,
    unequal,
)
from tests.parity.vector_set import Arrays, VectorSet

CROP, STRIDE = 224, 112
PAMR = {
    "_target_": "sclip_lab.segmentation.refinements.pamr.pamr",
    "steps": 10,
    "dilations": [8, 16],
}
Size = tuple[int, int]


class Run:
    """One image through windows, network and readout.

    Attributes:
        plan, laid_out, image: what `Readout.predict` takes.
        encoded: the windows.
    """

    @torch.inference_mode()
    def __init__(
        self,
        backbone: Backbone,
        variant: Variant,
        image: Tensor,
        target: Size,
        crop: int | None,
        stride: int,
        text: Tensor,
        protocol: Protocol | None = None,
    ) -> None:
        protocol = protocol or Protocol()
        size = (image.shape[-2], image.shape[-1])
        self.plan = windows.plan(size, target, crop, stride, backbone.patch_size)
        crops = self.plan.cut(image)
        if protocol.views:
            looks = protocol.views.items()
            crops = torch.cat([views.see_one(crops, view, name) for name, view in looks])
        [(_, everything)] = encode(backbone, crops, [variant])
        readout = Readout(protocol, text, torch.arange(len(text)))
        logits = views.average(readout.patch_logits(everything), protocol.views)
        self.encoded: Encoded = everything.part(slice(0, self.plan.num_windows))
        self.laid_out, self.image, self.text = self.plan.lay_out(logits), image, text

    @property
    def stitched(self) -> np.ndarray:
        return self.plan.stitch(self.laid_out).numpy()

    @torch.inference_mode()
    def labels(self, classes: np.ndarray, protocol: Protocol) -> np.ndarray:
        readout = Readout(protocol, self.text, torch.from_numpy(np.asarray(classes)))
        return readout.predict(
            self.plan, self.laid_out, self.image, self.encoded, self.encoded.backbone
        ).numpy()


def probabilities(logits: np.ndarray, classes: np.ndarray, scale: float) -> Tensor:
    """(classes, height, width): softmax over queries, the largest of a class's."""
    queries = torch.softmax(scale * torch.from_numpy(logits), dim=0)
    kinds = torch.from_numpy(np.asarray(classes)).long()
    return torch.stack([queries[kinds == c].amax(0) for c in range(int(kinds.max()) + 1)])


def resized(maps: np.ndarray, size: Size) -> np.ndarray:
    stretched = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")
    return stretched[0].numpy()


def settings(key: str) -> dict[str, Any]:
    """A protocol's fields from a key such as ``b_scale65_prob0.1_area0.1__label``."""
    fields = {"scale": "logit_scale", "prob": "prob_threshold", "area": "area_threshold"}
    config: dict[str, Any] = {
        fields[name]: float(value) for name, value in re.findall(r"_(scale|prob|area)([\d.]+)", key)
    }
    return {**config, **({"refinement": PAMR} if re.search(r"_pamr\d+", key) else {})}


def best_input(toy: VectorSet, chosen: str | None, error: Callable[[str], float]) -> str:
    """The input that a file is about: the one its meta.json names, or else the one that fits best.

    The fit cannot make a wrong computation pass: it only chooses among the set's images.
    """
    return chosen if chosen in toy.inputs else min(toy.inputs, key=error)


@comparison("sclip_segmentor", inputs="query_idx|text_tokens")
def sclip(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone, csa, text = toy.network(), lab.load_attention("csa"), toy.text()
    classes = arrays["query_idx"]
    labels = {f[0]: a for f, a in arrays.matching(r"[a-f]_.*__label")}
    target = next(iter(labels.values())).shape
    crop = CROP
    if "crop0_logits_s8" in arrays:
        crop = 8 * arrays["crop0_logits_s8"].shape[-1]

    @cache
    def run(one: str, size: Size | None = None) -> Run:
        image = toy.inputs[one][0]
        to = target if size is None else size
        image = image if size is None else image[:, : size[0], : size[1]]
        return Run(backbone, csa, image, to, crop, crop // 2, text)

    def error(one: str) -> float:
        result = run(one)
        if "raw_logits_s4" in arrays:
            return difference(result.stitched[:, ::4, ::4], arrays["raw_logits_s4"])
        key, official = next(iter(labels.items()))
        return float((result.labels(classes, Protocol(**settings(key))) != official).sum())

    one = best_input(toy, toy.meta(name).get("input"), error)
    result = run(one)
    for key, tolerance in (("raw_logits_s4", LOGITS), ("raw_logits_f16", 1e-3)):
        if key in arrays:
            ours = result.stitched[:, ::4, ::4] if key.endswith("s4") else result.stitched
            yield close(key, ours, arrays[key], tolerance)
    if "crop0_logits_s8" in arrays:
        maps = result.laid_out[:, : result.plan.grid[0], : result.plan.grid[1]].numpy()
        ours = resized(maps, (crop, crop))[:, ::8, ::8]
        yield close("crop0_logits_s8", ours, arrays["crop0_logits_s8"], LOGITS)
    for key, official in labels.items():
        kinds = np.arange(len(text)) if "nosyn" in key else classes
        ours = result.labels(kinds, Protocol(**settings(key)))
        yield unequal(key, ours, official, PIXELS)
    for match, official in arrays.matching(r"([a-f]_.*)__prob_s4"):
        maps = probabilities(result.stitched, classes, settings(match[1]).get("logit_scale", 40.0))
        share = settings(match[1]).get("area_threshold")
        if share:
            won = maps.argmax(0).flatten()
            area = torch.bincount(won, minlength=len(maps))[1:].float()
            maps[1:][area / area.sum() <= share] = 0
        yield close(match[0], maps[:, ::4, ::4], official, PROBABILITIES)
    for match, official in arrays.matching(r"f_pamr(\d+)_raw_logits_s4"):
        refine = PAMR | {"steps": int(match[1])}
        refined = refine_logits(result, refine)
        yield close(match[0], refined[:, ::4, ::4], official, PROBABILITIES)
    for match, official in arrays.matching(r"g_[a-z]+(\d+)x(\d+)_raw_logits_s4"):
        ours = run(one, (int(match[1]), int(match[2]))).stitched[:, ::4, ::4]
        yield close(match[0], ours, official, LOGITS)


def refine_logits(result: Run, refinement: Mapping[str, Any]) -> np.ndarray:
    from sclip_lab.segmentation.refinements.pamr import pamr

    image = F.interpolate(result.image[None], result.plan.target, mode="bilinear")[0]
    logits = torch.from_numpy(result.stitched)
    return pamr(image, logits, refinement["steps"], refinement["dilations"]).numpy()


@comparison("sclip_segmentor")
def sclip_text(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """Text embeddings of tokens, and of names in all templates."""
    if "text_tokens" in arrays:
        tokens = torch.from_numpy(arrays["text_tokens"])
        backbone = replace(toy.network(), tokenize=lambda texts: tokens)
        ours = F.normalize(backbone.encode_text(["text"] * len(tokens)), dim=-1)
        official = torch.from_numpy(arrays["text_features"])
        yield close("text_features", ours, F.normalize(official, dim=-1).numpy(), FEATURES)
    names = toy.meta(name).get("names", NAMES)
    classes = tuple(tuple(n.strip() for n in each.split(",")) for each in names)
    vocabulary = Vocabulary("official", classes)
    key = "text_query_features"
    yield close(key, embed_vocabulary(toy.network(), vocabulary), arrays[key], FEATURES)
    key = "text_query_idx"
    yield unequal(key, np.array(vocabulary.query_classes), arrays[key])


# What meta.json names, for a set that has none.
NAMES = ["sky, wall, tree", "aeroplane", "person, person in shirt", "dog", "sofa"]


@comparison("naclip_segmentor", inputs="query_idx|ori_shape")
def naclip(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """Whole images and windows, of a size that is no multiple of the patch."""
    backbone, variant, text = toy.network(), lab.load_attention("naclip"), toy.text()
    classes, target = arrays["query_idx"], tuple(arrays["ori_shape"].tolist())
    labels = {f[0]: a for f, a in arrays.matching(r"(whole|slide)_.*__label")}

    @cache
    def run(one: str, whole: bool) -> Run:
        crop = None if whole else CROP
        return Run(backbone, variant, toy.inputs[one][0], target, crop, STRIDE, text)

    def ours(one: str, key: str) -> np.ndarray:
        protocol = Protocol(**without(settings(key), "pamr" if "nopamr" in key else ""))
        return run(one, key.startswith("whole")).labels(classes, protocol)

    def error(one: str) -> float:
        return float((ours(one, next(iter(labels))) != next(iter(labels.values()))).sum())

    one = best_input(toy, toy.meta(name).get("input"), error)
    for key, official in labels.items():
        yield unequal(key, ours(one, key), official, PIXELS)
    for match, official in arrays.matching(r"((whole|slide)_.*)__prob_s4"):
        result, key = run(one, match[2] == "whole"), match[1]
        maps = result.stitched
        if "_pamr" in key:
            maps = refine_logits(result, PAMR)
        maps = probabilities(maps, classes, settings(key).get("logit_scale", 40.0))
        maps = maps / maps.sum(0)  # this evaluator divides by the sum over classes at its end
        yield close(match[0], maps[:, ::4, ::4], official, PROBABILITIES)


def without(fields: dict[str, Any], what: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if not (what and k == "refinement")}


@comparison("itaclip_segmentor", inputs="query_idx|ori_shape")
def itaclip(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """Five views; and VOC21's preset from end to end: PAMR, thresholds, closing."""
    backbone, variant, text = toy.network(), lab.load_attention("itaclip"), toy.text()
    five, target = lab.load_protocol("itaclip"), tuple(arrays["ori_shape"].tolist())

    def run(one: str, size: Size, stride: int, protocol: Protocol | None) -> Run:
        image = toy.inputs[one][0]
        side = toy.clip.GRID * toy.clip.PATCH
        return Run(backbone, variant, image, size, side, stride, text, protocol)

    for match, official in arrays.matching(r"(.+)__logits_(\d)views?_s4"):
        size = tuple(toy.inputs[match[1]].shape[-2:])
        protocol = None if match[2] == "1" else five
        result = run(match[1], size, five.stride, protocol)
        yield close(match[0], result.stitched[:, ::4, ::4], official, LOGITS)
    for match, official in arrays.matching(r"(.+)__slide(\d+)_raw_logits_s4"):
        result = run(match[1], target, int(match[2]), five)
        yield close(match[0], result.stitched[:, ::4, ::4], official, LOGITS)
    for match, official in arrays.matching(r"(.+)__(voc21)preset__label"):
        preset = lab.load_protocol("itaclip", match[2])
        result = run(match[1], target, preset.stride, preset)
        yield unequal(match[0], result.labels(arrays["query_idx"], preset), official, PIXELS)
