"""Photos to network input against mmcv's and mmsegmentation's own output."""

from __future__ import annotations

import numpy as np
import pytest

from sclip_lab.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import photos
from sclip_lab.segmentation.protocol import Protocol
from tests.make_clip import make_photo


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((500, 333), (505, 336)),  # the size rule's published example
        ((375, 500), (336, 448)),
        ((336, 336), (336, 336)),
        ((100, 3000), (68, 2048)),  # the longer side bounds: 2048 / 3000
    ],
)
def test_size_rule(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert Protocol().resized(*size) == wanted


def test_size_is_left_alone_without_a_short_side() -> None:
    assert Protocol(short_side=None).resized(123, 457) == (123, 457)


def test_equal_size_is_not_resampled() -> None:
    photo = make_photo("public", 50, 60)
    assert photos.resize(photo, (50, 60)) is photo


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_other_arrays_are_refused(backbone: Backbone, image: np.ndarray) -> None:
    with pytest.raises(LabError, match=r"\(height, width, 3\) uint8 wanted"):
        photos.to_input(image, (8, 8), backbone)
