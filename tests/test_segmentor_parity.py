"""From image to labels against the official evaluators of SCLIP, NACLIP and ITACLIP.

Everything runs on the toy CLIP, with its text injected.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sclip_lab as lab
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.segmentation import views, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.segmentation.protocol import Protocol
from tests import toy, vectors
from tests.make_clip import make_text

PAMR = {
    "_target_": "sclip_lab.segmentation.refinements.pamr.pamr",
    "steps": 10,
    "dilations": [8, 16],
}
LOGITS = 1e-5
PIXELS = 10


@cache
def forward(
    attention: str,
    name: str,
    size: tuple[int, int] | None,
    target: tuple[int, int],
    crop: int | None,
    stride: int,
    protocol: str = "sclip",
) -> tuple[windows.Plan, Tensor, Tensor]:
    """Plan, patch logits laid side by side, and image, of the upper left ``size`` of an input, in
    the views of a protocol."""
    backbone = toy.network()
    image = toy.inputs()[name][0]
    if size is not None:
        image = image[:, : size[0], : size[1]]
    plan = windows.plan(tuple(image.shape[-2:]), target, crop, stride, backbone.patch_size)
    seen = lab.load_protocol(protocol).views
    encoded = toy.encoded(backbone, views.see(plan.cut(image), seen), lab.load_attention(attention))
    readout = Readout(Protocol(), toy.text(), torch.arange(len(toy.text())))
    with torch.inference_mode():
        logits = views.average(readout.patch_logits(encoded), seen)
    return plan, plan.lay_out(logits), image


def sclip() -> tuple[windows.Plan, Tensor, Tensor]:
    return forward("csa", "rect336x448", None, (375, 500), 224, 112)


def labels(run: tuple[windows.Plan, Tensor, Tensor], classes: np.ndarray, **protocol: Any) -> Any:
    readout = Readout(Protocol(**protocol), toy.text(), torch.from_numpy(classes))
    return readout.predict(*run).numpy()


def test_raw_logits() -> None:
    official = vectors.load("sclip_segmentor")["raw_logits_s4"]
    plan, laid_out, _ = sclip()
    found = plan.stitch(laid_out)[:, ::4, ::4].numpy()
    np.testing.assert_allclose(found, official, rtol=0, atol=LOGITS)


@pytest.mark.parametrize(
    ("key", "protocol"),
    [
        ("a_scale40", {}),
        (
            "b_scale65_prob0.1_area0.1",
            {"logit_scale": 65.0, "prob_threshold": 0.1, "area_threshold": 0.1},
        ),
        ("c_scale40_prob0.5", {"prob_threshold": 0.5}),
        ("d_scale40_area0.25", {"area_threshold": 0.25}),
        ("f_pamr10_scale40", {"refinement": PAMR}),
    ],
)
def test_labels(key: str, protocol: dict[str, Any]) -> None:
    arrays = vectors.load("sclip_segmentor")
    official = arrays[f"{key}__label"]
    found = labels(sclip(), arrays["query_idx"], **protocol)
    assert (found != official).sum() <= PIXELS


def test_labels_without_synonyms() -> None:
    official = vectors.load("sclip_segmentor")["e_nosyn_scale40__label"]
    assert (labels(sclip(), np.arange(8)) != official).sum() <= PIXELS


@pytest.mark.parametrize(("key", "size"), [("small", (160, 336)), ("shifted", (250, 300))])
def test_odd_windows(key: str, size: tuple[int, int]) -> None:
    """One side smaller than the crop, and a last window that is shifted inward."""
    official = vectors.load("sclip_segmentor")[f"g_{key}{size[0]}x{size[1]}_raw_logits_s4"]
    plan, laid_out, _ = forward("csa", "rect336x448", size, size, 224, 112)
    found = plan.stitch(laid_out)[:, ::4, ::4].numpy()
    np.testing.assert_allclose(found, official, rtol=0, atol=LOGITS)


def test_text_embeddings() -> None:
    arrays = vectors.load("sclip_segmentor")
    classes = (
        ("sky", "wall", "tree"), ("aeroplane",), ("person", "person in shirt"), ("dog",), ("sofa",)
    )  # fmt: skip
    vocabulary = Vocabulary("official", classes)
    text = embed_vocabulary(toy.network(), vocabulary)
    np.testing.assert_allclose(text.numpy(), arrays["text_query_features"], rtol=0, atol=5e-5)
    assert vocabulary.query_classes == arrays["text_query_idx"].tolist()


@pytest.mark.parametrize(
    ("key", "crop", "protocol"),
    [
        ("slide_nopamr_scale40", 224, {}),
        ("whole_nopamr_scale40_prob0.4", None, {"prob_threshold": 0.4}),
        ("whole_pamr10_scale40_prob0.1", None, {"prob_threshold": 0.1, "refinement": PAMR}),
    ],
)
def test_naclip(key: str, crop: int | None, protocol: dict[str, Any]) -> None:
    """Whole images and windows of a size that is no multiple of the patch."""
    arrays = vectors.load("naclip_segmentor")
    target = tuple(arrays["ori_shape"].tolist())
    run = forward("naclip", "odd230x347", None, target, crop, 112)
    found = labels(run, arrays["query_idx"], **protocol)
    assert (found != arrays[f"{key}__label"]).sum() <= PIXELS


@pytest.mark.parametrize(
    ("key", "name", "target", "protocol"),
    [
        ("sq224_a__logits_1view_s4", "sq224_a", (224, 224), "sclip"),
        ("sq224_a__logits_5views_s4", "sq224_a", (224, 224), "itaclip"),
        ("rect224x336__slide28_raw_logits_s4", "rect224x336", (250, 375), "itaclip"),
    ],
)
def test_itaclip_logits(key: str, name: str, target: tuple[int, int], protocol: str) -> None:
    official = vectors.load("itaclip_segmentor")[key]
    plan, laid_out, _ = forward("itaclip", name, None, target, 224, 28, protocol)
    found = plan.stitch(laid_out)[:, ::4, ::4].numpy()
    np.testing.assert_allclose(found, official, rtol=0, atol=LOGITS)


def test_itaclip_labels() -> None:
    """VOC21's preset from end to end: five views, PAMR, thresholds, closing."""
    arrays = vectors.load("itaclip_segmentor")
    protocol = lab.load_protocol("itaclip", "voc21")
    target = tuple(arrays["ori_shape"].tolist())
    run = forward("itaclip", "rect224x336", None, target, 224, protocol.stride, "itaclip")
    readout = Readout(protocol, toy.text(), torch.from_numpy(arrays["query_idx"]))
    found = readout.predict(*run).numpy()
    assert (found != arrays["rect224x336__voc21preset__label"]).sum() <= PIXELS


def test_the_toy_text_is_the_one_that_was_injected() -> None:
    np.testing.assert_array_equal(toy.text().numpy(), make_text("public"))
    np.testing.assert_allclose(np.linalg.norm(toy.text().numpy(), axis=1), 1, atol=1e-6)
