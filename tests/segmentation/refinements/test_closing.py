"""Morphological closing of labels, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.refinements.closing import closing


@pytest.mark.parametrize("size", [1, 3, 5])
def test_equals_grey_closing(size: int) -> None:
    labels = np.random.default_rng(0).integers(0, 7, (40, 50)).astype(np.uint8)
    # Beyond the border there is nothing to win or lose against.
    high = ndimage.grey_dilation(labels, (size, size), mode="constant", cval=0)
    expected = ndimage.grey_erosion(high, (size, size), mode="constant", cval=255)
    result = closing(torch.from_numpy(labels), size)
    assert result.dtype == torch.uint8
    assert np.array_equal(result.numpy(), expected)


@pytest.mark.parametrize("size", [0, 4, -3])
def test_a_square_has_a_middle(size: int) -> None:
    with pytest.raises(LabError, match="odd"):
        closing(torch.zeros(4, 4, dtype=torch.uint8), size)
