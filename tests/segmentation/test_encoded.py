"""What the windows of a batch know of the photos that they were cut from."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import sclip_lab as lab
from sclip_lab.network.scene import Guidance, Placement, Scene
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.encoded import encode
from tests import second_network, toy

SIDE, STRIDE = 224, 112


@pytest.mark.parametrize("name", ["csa", "rfclip", "guided"])
def test_whole_class_embedding_is_that_of_the_photo_as_one_window(name: str) -> None:
    """Of photos in one batch: in overlapping windows, in windows padded at top and bottom, and of
    one window. The oracle encodes each photo by itself."""
    backbone, variant = toy.network(), lab.load_attention(name)
    whole = toy.inputs()["rect224x336"]
    photos = [whole, whole[..., 16:208, :], toy.inputs()["sq224_a"]]
    cut, placed, first = [], [], 0
    for photo in photos:
        size = (photo.shape[-2], photo.shape[-1])
        plan = windows.plan(size, size, SIDE, STRIDE, backbone.patch_size, multiple=56)
        part = slice(first, first + plan.num_windows)
        cut.append(plan.cut(photo[0]))
        placed.append(Placement(part, plan.corners, plan.resized, backbone.patch_size))
        first = part.stop
    assert placed[1].corners[0][0] < 0, "the second photo is padded"
    look = partial(second_network.guide().of_windows, backbone=backbone)
    guidance = Guidance(lambda: look(torch.cat(cut)), look)
    scene = Scene(tuple(placed), guidance)
    [(_, result)] = encode(backbone, torch.cat(cut), [variant], scene=scene)
    for photo, place in zip(photos, placed, strict=True):
        [(_, alone)] = encode(backbone, photo, [variant], scene=Scene(guidance=guidance.of(photo)))
        single = alone.class_embedding
        of_windows = result.whole_class_embedding[place.windows]
        torch.testing.assert_close(of_windows, single.expand_as(of_windows), atol=2e-5, rtol=0)
    apart = (result.class_embedding - result.whole_class_embedding).abs().amax(dim=-1)
    assert (apart[:-1] > 0.1).all(), "a window by itself says something else"
