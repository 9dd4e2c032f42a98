"""CLIPer's fusion of levels, against the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sclip_lab.app.registry import load_attention
from sclip_lab.attention.variant import build
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.readouts.cliper import cliper, cliper_maps
from tests import toy, vectors
from tests.test_parity import CASES, FEATURES, HALF_FEATURES, difference, setup

CLIPER = load_attention("cliper")
INPUTS = ["sq224_a", "sq224_b", "rect224x336", "rect336x448"]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("number", [1, 6])
def test_features_of_a_level(name: str, number: int) -> None:
    backbone, _ = setup(CASES["cliper"])
    official = vectors.load("cliper")
    key = f"{name}__layer{number}_feat"
    expected = official[key] if key in official else official[f"{key}_first32"]
    level = build({"_target_": "sclip_lab.attention.cliper.level", "source": number - 1})
    ours = dense_features(backbone, toy.inputs()[name], level)[0].flatten(0, 1)[: len(expected)]
    limit = HALF_FEATURES if "rect" in name else FEATURES
    assert difference(ours.numpy(), expected) <= limit


@pytest.mark.parametrize("name", INPUTS)
def test_maps(name: str) -> None:
    backbone, _ = setup(CASES["cliper"])
    text = toy.text()
    encoded = toy.encoded(backbone, toy.inputs()[name], CLIPER)
    with torch.inference_mode():
        ours = cliper_maps(encoded, text[:6], text[6:], scale=50, threshold=0.2)
    expected = vectors.load("cliper")[f"{name}__seg_6fg_2bg_scale50_thr0.2"]
    assert difference(ours[0].numpy(), expected) <= 1e-4


def test_maps_of_a_batch_are_those_of_its_images() -> None:
    backbone, _ = setup(CASES["cliper"])
    text = toy.text()
    images = [toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]]
    with torch.inference_mode():
        together = cliper(toy.encoded(backbone, torch.cat(images), CLIPER), text)
        alone = [cliper(toy.encoded(backbone, image, CLIPER), text) for image in images]
    np.testing.assert_allclose(together.numpy(), torch.cat(alone).numpy(), atol=1e-5)
