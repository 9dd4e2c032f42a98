"""Bands along borders, by hand and by a distance transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_cdt

from sclip_lab.diagnostics.borders import band, boundary_iou, window_border_error
from sclip_lab.segmentation.windows import plan


def test_band_is_a_chessboard_distance() -> None:
    region = np.random.default_rng(0).random((40, 50)) < 0.97
    for distance in (1, 3):
        inside = distance_transform_cdt(np.pad(region, 1), "chessboard")[1:-1, 1:-1]
        np.testing.assert_array_equal(band(region, distance), region & (inside <= distance))


def test_boundary_iou_of_a_moved_square() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[30:60, 30:60] = 1
    assert boundary_iou(mask, mask) == 1
    # the diagonal is 141 pixels, so the band is 3 wide; compare with sets of pixels
    moved = np.roll(mask, 2, axis=1)
    expected = []
    for label in (0, 1):
        bands = []
        for labels in (mask, moved):
            region = np.pad(labels == label, 1)
            inside = distance_transform_cdt(region, "chessboard")[1:-1, 1:-1]
            bands.append((labels == label) & (inside <= 3))
        expected.append((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())
    assert boundary_iou(moved, mask) == pytest.approx(np.mean(expected))
    assert boundary_iou(moved, mask) < 0.9


def test_void_does_not_count() -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[:, 25:] = 1
    mask[:, 20:30] = 255
    wrong_in_void = mask.copy()
    wrong_in_void[:, 20:30] = 7
    assert boundary_iou(wrong_in_void, mask) == 1
    assert np.isnan(boundary_iou(mask, np.full((50, 50), 255, np.uint8)))


def test_errors_at_seams() -> None:
    windows = plan((64, 96), (128, 192), 64, 32, 16)  # edges inside at columns 32 and 64 of 96
    mask = np.zeros((128, 192), np.uint8)
    prediction = mask.copy()
    prediction[:, 60:68] = 1  # at column 32 of the resized photo: 64 of 192
    near = np.zeros(192, bool)
    for edge in (32, 64):
        near |= np.abs((np.arange(192) + 0.5) / 2 - edge) < 16
    assert window_border_error(prediction, mask, windows) == pytest.approx(8 / near.sum())
    elsewhere = mask.copy()
    elsewhere[:, :8] = 1
    expected = -8 / (~near).sum()
    assert window_border_error(elsewhere, mask, windows) == pytest.approx(expected)
    single = plan((64, 64), (64, 64), 64, 32, 16)
    assert np.isnan(window_border_error(mask[:64, :64], mask[:64, :64], single))
