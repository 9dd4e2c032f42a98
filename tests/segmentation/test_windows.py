"""Sliding windows against mmsegmentation's rule, and stitching against accumulate-and-divide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.segmentation import windows

# resized, target, crop, stride, patch
CASES = [
    ((336, 448), (375, 500), 224, 112, 16),  # the usual
    ((336, 505), (333, 500), 224, 112, 16),  # last window shifted inward
    ((200, 336), (120, 201), 224, 112, 16),  # one side smaller than the crop, and no whole patches
    ((50, 61), (97, 103), 224, 112, 16),  # both smaller
    ((97, 131), (97, 131), 64, 28, 16),  # odd everywhere, stride not a divisor
    ((64, 64), (31, 47), 64, 64, 16),  # one window exactly
    ((130, 97), (260, 50), 50, 33, 14),  # crop not a multiple of the patch
    ((90, 140), (91, 139), None, 112, 16),  # the whole image at once
]


def boxes(size: tuple[int, int], crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """y1, y2, x1, x2 of each window: the loop of mmseg's ``slide_inference``, from its rule."""
    h_img, w_img = size
    h_grids = max(h_img - crop + stride - 1, 0) // stride + 1
    w_grids = max(w_img - crop + stride - 1, 0) // stride + 1
    result = []
    for h_idx in range(h_grids):
        for w_idx in range(w_grids):
            y2 = min(h_idx * stride + crop, h_img)
            x2 = min(w_idx * stride + crop, w_img)
            result.append((max(y2 - crop, 0), y2, max(x2 - crop, 0), x2))
    return result


def official(
    patches: Tensor, resized: tuple[int, int], target: tuple[int, int], crop: int, stride: int
) -> Tensor:
    """Upsample each window's logits, add, divide by the count, resize: (channels, *target)."""
    total = patches.new_zeros(patches.shape[-1], *resized)
    count = patches.new_zeros(*resized)
    for patch, (y1, y2, x1, x2) in zip(patches, boxes(resized, crop, stride), strict=True):
        logits = patch.permute(2, 0, 1)[None]
        up = F.interpolate(logits, size=(y2 - y1, x2 - x1), mode="bilinear")[0]
        total[:, y1:y2, x1:x2] += up
        count[y1:y2, x1:x2] += 1
    assert count.min() > 0
    return F.interpolate((total / count)[None], size=target, mode="bilinear")[0]


@pytest.mark.parametrize("case", CASES)
def test_positions_are_mmsegs(case: tuple) -> None:
    resized, target, crop, stride, patch = case
    plan = windows.plan(resized, target, crop, stride, patch)
    expected = boxes(resized, crop or max(resized), stride)
    result = [
        (y, y + plan.rows.crop, x, x + plan.columns.crop)
        for y in plan.rows.starts
        for x in plan.columns.starts
    ]
    assert result == expected
    assert plan.num_windows == len(expected)
    image = torch.arange(3 * resized[0] * resized[1]).view(3, *resized)
    for cut, (y1, y2, x1, x2) in zip(plan.cut(image), expected, strict=True):
        assert torch.equal(cut, image[:, y1:y2, x1:x2])


@pytest.mark.parametrize("case", CASES)
def test_stitch_is_accumulate_and_divide(case: tuple) -> None:
    resized, target, crop, stride, patch = case
    plan = windows.plan(resized, target, crop, stride, patch)
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(plan.num_windows, *plan.grid, 5, generator=generator) * 2 - 1
    expected = official(patches.double(), resized, target, crop or max(resized), stride)
    stitched = plan.stitch(plan.lay_out(patches))
    assert stitched.dtype == torch.float32
    assert tuple(stitched.shape) == (5, *target)
    assert (stitched - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("case", CASES)
def test_stitching_matrices_in_double(case: tuple) -> None:
    resized, target, crop, stride, patch = case
    plan = windows.plan(resized, target, crop, stride, patch)
    patches = torch.randn(
        plan.num_windows, *plan.grid, 2, dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    by, bx = (windows.stitching_matrix(plan, axis).double() for axis in (0, 1))
    expected = official(patches, resized, target, crop or max(resized), stride)
    assert (by @ plan.lay_out(patches) @ bx.T - expected).abs().max() <= 1e-6
    # Averages of bilinear interpolation: rows of weights that sum to one.
    assert (by.sum(1) - 1).abs().max() <= 1e-6
    assert by.min() >= 0


@pytest.mark.parametrize("multiple", [16, 56])
@pytest.mark.parametrize("case", [c for c in CASES if c[4] == 16])
def test_centred_padding_against_the_loop_that_pads_each_window(case: tuple, multiple: int) -> None:
    resized, target, crop, stride, patch = case
    plan = windows.plan(resized, target, crop, stride, patch, multiple=multiple)
    image = torch.rand(3, *resized, generator=torch.Generator().manual_seed(2))
    cuts = plan.cut(image)
    total, count = torch.zeros(2, *resized, dtype=torch.float64), torch.zeros(*resized)
    patches = torch.rand(plan.num_windows, *plan.grid, 2, dtype=torch.float64)
    expected = boxes(resized, crop or max(resized), stride)
    for cut, logits, (y1, y2, x1, x2) in zip(cuts, patches, expected, strict=True):
        high, wide = y2 - y1, x2 - x1
        more = [-side % multiple for side in (high, wide)]
        top, left = more[0] // 2, more[1] // 2
        padded = F.pad(image[:, y1:y2, x1:x2], (left, more[1] - left, top, more[0] - top))
        assert torch.equal(cut, padded)
        up = F.interpolate(logits.permute(2, 0, 1)[None], size=padded.shape[1:], mode="bilinear")[0]
        total[:, y1:y2, x1:x2] += up[:, top : top + high, left : left + wide]
        count[y1:y2, x1:x2] += 1
    official = F.interpolate((total / count)[None], size=target, mode="bilinear")[0]
    assert (plan.stitch(plan.lay_out(patches.float())) - official).abs().max() <= 1e-6
    assert plan.grid == tuple(side // patch for side in cuts.shape[-2:])
    assert plan.corners[0] == (-plan.rows.before, -plan.columns.before)


def test_padding_does_not_vote() -> None:
    plan = windows.plan((20, 16), (20, 16), None, 1, 16, multiple=16)
    mask = np.ones((20, 16), np.uint8)
    mask[:4] = 0
    labels = windows.patch_labels(plan, mask, 255)[0, :, 0]
    # 6 rows above, 4 of class 0 and 6 of class 1; then 10 of class 1 and 6 below.
    assert labels.tolist() == [1, 1]
    mask[:6] = 0
    assert windows.patch_labels(plan, mask, 255)[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("max_values", [1, 900, 12345])
@pytest.mark.parametrize("case", CASES[:5])
def test_bands_are_the_stitched_map(case: tuple, max_values: int) -> None:
    resized, target, crop, stride, patch = case
    plan = windows.plan(resized, target, crop, stride, patch)
    laid_out = plan.lay_out(torch.randn(plan.num_windows, *plan.grid, 3))
    whole = plan.stitch(laid_out)
    observed = 0
    for rows, band in plan.bands(laid_out, max_values):
        assert rows.start == observed
        assert band.numel() <= max(max_values, 3 * target[1])
        torch.testing.assert_close(band, whole[:, rows], rtol=0, atol=2e-6)
        observed = rows.stop
    assert observed == target[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 90))
def test_bilinear_matrix_is_interpolate(inputs: int, outputs: int) -> None:
    identity = torch.eye(inputs, dtype=torch.float64)[None]
    expected = F.interpolate(identity, size=outputs, mode="linear", align_corners=False)[0].T
    result = windows.bilinear_matrix(inputs, outputs).toarray()
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(8, 70), st.integers(8, 70)), st.integers(8, 40), st.data())
def test_windows_cover_every_pixel(
    resized: tuple[int, int], crop: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, crop))
    plan = windows.plan(resized, resized, crop, stride, 8)
    covered = torch.zeros(resized, dtype=torch.int32)
    for y in plan.rows.starts:
        for x in plan.columns.starts:
            covered[y : y + plan.rows.crop, x : x + plan.columns.crop] += 1
    assert covered.min() >= 1
    assert [b[0::2] for b in boxes(resized, crop, stride)] == [
        (y, x) for y in plan.rows.starts for x in plan.columns.starts
    ]


def test_lay_out_puts_patches_where_they_are() -> None:
    plan = windows.plan((32, 64), (32, 64), 32, 32, 16)  # 1 x 2 windows of 2 x 2 patches
    patches = torch.arange(8).view(2, 2, 2, 1)
    assert plan.lay_out(patches)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_patch_labels_of_halves() -> None:
    plan = windows.plan((32, 32), (32, 32), 32, 32, 16)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 4
    mask[16:] = 255
    mask[31, :8] = 2  # the only pixels that vote in the lower left patch
    assert windows.patch_labels(plan, mask, 255).tolist() == [[[0, 4], [2, -1]]]


def test_patch_labels_vote_and_break_ties_low() -> None:
    plan = windows.plan((4, 8), (4, 8), None, 1, 4)
    mask = np.array([[3] * 4 + [9] * 4] * 2 + [[1] * 4 + [9, 9, 9, 2]] * 2, np.uint8)
    assert windows.patch_labels(plan, mask, 255).tolist() == [[[1, 9]]]


def test_patch_labels_follow_the_resize_and_the_windows() -> None:
    plan = windows.plan((32, 48), (64, 96), 32, 16, 16)  # the photo is twice as large
    mask = np.repeat(np.arange(3), 32)[None].repeat(64, 0).astype(np.uint8)
    labels = windows.patch_labels(plan, mask, 255)
    assert labels.tolist() == [[[0, 1]] * 2, [[1, 2]] * 2]


def test_patch_labels_without_a_vote() -> None:
    plan = windows.plan((20, 20), (20, 20), None, 1, 16)
    labels = windows.patch_labels(plan, np.full((20, 20), 255, np.uint8), 255)
    assert labels.tolist() == [[[-1]]]


@pytest.mark.parametrize("size", [(64, 700), (700, 64)])
def test_a_long_photo_is_stitched_in_parts(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = windows.plan(size, size, 64, 32, 16)
    laid_out = plan.lay_out(torch.randn(plan.num_windows, *plan.grid, 3))
    whole = plan.stitch(laid_out)
    monkeypatch.setattr(windows, "LONG_SIDE", 100)
    torch.testing.assert_close(plan.stitch(laid_out), whole, rtol=0, atol=2e-6)


def test_a_very_long_photo_is_stitched_in_little_memory() -> None:
    size = 64, 20_000  # a dense matrix of all columns would be 3.2 GB
    plan = windows.plan(size, size, 64, 32, 16)
    patches = torch.randn(plan.num_windows, *plan.grid, 1)
    stitched = plan.stitch(plan.lay_out(patches))
    expected = official(patches.double(), size, size, 64, 32)
    assert (stitched - expected).abs().max() <= 1e-5
    assert sum(windows.stitching_part(plan, 1, slice(0, 4096))[1].shape) < 2 * 4096


def test_patch_labels_of_a_padded_patch() -> None:
    plan = windows.plan((20, 16), (20, 16), None, 1, 16, "corner")
    assert plan.grid == (2, 1)
    mask = np.zeros((20, 16), np.uint8)
    mask[16:] = 3
    assert windows.patch_labels(plan, mask, 255).tolist() == [[[0], [3]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((64, 64), (64, 64), 32, 33, 16), "stride 33 must lie in 1 .. crop_size 32"),
        (((64, 64), (64, 64), 32, 0, 16), "stride 0"),
        (((64, 12), (64, 12), 32, 16, 16), "windows of 12 px"),
        (((64, 64), (64, 64), 8, 8, 16), "smaller than a patch"),
    ],
)
def test_impossible_plans(arguments: tuple, message: str) -> None:
    with pytest.raises(LabError, match=message):
        windows.plan(*arguments)


def test_other_sizes_than_planned() -> None:
    plan = windows.plan((64, 64), (64, 64), 32, 32, 16)
    with pytest.raises(LabError, match="planned for"):
        plan.cut(torch.zeros(3, 64, 65))
    with pytest.raises(LabError, match="planned for"):
        plan.lay_out(torch.zeros(3, 2, 2, 5))
