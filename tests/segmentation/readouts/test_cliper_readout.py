"""CLIPer's fusion of levels, against the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.readouts.cliper import cliper
from tests import toy
from tests.test_parity import CASES, prepared

CLIPER = load_attention("cliper")
INPUTS = ["sq224_a", "sq224_b", "rect224x336", "rect336x448"]


def test_maps_of_a_batch_are_those_of_its_images() -> None:
    backbone, _ = prepared(CASES["cliper"])
    text = toy.text()
    images = [toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]]
    with torch.inference_mode():
        together = cliper(toy.encoded(backbone, torch.cat(images), CLIPER), text)
        alone = [cliper(toy.encoded(backbone, image, CLIPER), text) for image in images]
    np.testing.assert_allclose(together.numpy(), torch.cat(alone).numpy(), atol=1e-5)


def test_background_only_competes() -> None:
    backbone, _ = prepared(CASES["cliper"])
    text = toy.text()
    with torch.inference_mode():
        one = toy.encoded(backbone, toy.inputs()["sq224_a"], CLIPER)
        maps = cliper(one, text, background=3)
        all_classes = cliper(one, text)
    assert not maps[..., :3].any()
    assert not torch.equal(maps[..., 3:], all_classes[..., 3:])  # they share the probability
    with pytest.raises(LabError, match=r"background 8 must be 0 \.\. 7 queries"):
        cliper(one, text, background=8)
