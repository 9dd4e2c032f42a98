"""Photos to network input against mmcv's and mmsegmentation's own output."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import photos
from sclip_lab.segmentation.protocol import Protocol
from tests.make_clip import make_photo


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((500, 333), (505, 336)),  # the size rule's published example
        ((375, 500), (336, 448)),
        ((336, 336), (336, 336)),
        ((100, 3000), (68, 2048)),  # the longer side bounds: 2048 / 3000
    ],
)
def test_size_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Protocol().resized(*size) == expected


def test_size_is_left_alone_without_a_short_side() -> None:
    assert Protocol(short_side=None).resized(123, 457) == (123, 457)


@pytest.mark.parametrize("size", [(375, 500), (333, 500), (640, 361)])
def test_whole_patches_are_nearest(size: tuple[int, int]) -> None:
    for patch in (14, 16):
        result = Protocol(whole_patches=True).resized(*size, patch)
        for side, got in zip(size, result, strict=True):
            exact = side * 336 / min(size)
            assert got % patch == 0
            assert abs(got - exact) <= patch / 2


def test_bicubic_is_pils() -> None:
    photo = make_photo("public", 90, 70)
    expected = Image.fromarray(photo).resize((45, 57), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(photos.resize(photo, (57, 45), "bicubic"), np.array(expected))
    assert np.abs(photos.resize(photo, (57, 45)).astype(int) - np.array(expected)).max() > 10


@pytest.mark.parametrize("size", [(375, 500), (99, 64), (64, 64), (43, 121)])
def test_centre_crop_is_torchvisions(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not here")
    photo = make_photo("public", *size)
    mask = np.random.default_rng(0).integers(0, 21, size, dtype=np.uint8)
    protocol = Protocol(short_side=64, centre_crop=64, resampling="bicubic")
    modes = transforms.InterpolationMode.BICUBIC, transforms.InterpolationMode.NEAREST
    for pixels, mode in zip((photo, mask), modes, strict=True):
        official = transforms.Compose([transforms.Resize(64, mode), transforms.CenterCrop(64)])
        expected = np.array(official(Image.fromarray(pixels)))
        np.testing.assert_array_equal(photos.centre(pixels, protocol), expected)


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
