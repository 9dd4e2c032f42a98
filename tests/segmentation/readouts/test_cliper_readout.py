"""CLIPer's fusion of levels, against the official code."""

from __future__ import annotations

import numpy as np
import torch

from sclip_lab.app.registry import load_attention
from sclip_lab.segmentation.readouts.cliper import cliper
from tests import toy
from tests.test_parity import CASES, setup

CLIPER = load_attention("cliper")
INPUTS = ["sq224_a", "sq224_b", "rect224x336", "rect336x448"]


def test_maps_of_a_batch_are_those_of_its_images() -> None:
    backbone, _ = setup(CASES["cliper"])
    text = toy.text()
    images = [toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]]
    with torch.inference_mode():
        together = cliper(toy.encoded(backbone, torch.cat(images), CLIPER), text)
        alone = [cliper(toy.encoded(backbone, image, CLIPER), text) for image in images]
    np.testing.assert_allclose(together.numpy(), torch.cat(alone).numpy(), atol=1e-5)
