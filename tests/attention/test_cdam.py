"""CDAM's map where official outputs say nothing: grids of one row, and rows that are constant."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from sclip_lab.attention.cdam import ROWS, class_distribution_map, divergence


def cosines(patches: int, seed: int = 0) -> Tensor:
    return torch.rand(1, patches, 5, generator=torch.Generator().manual_seed(seed)) / 2


@pytest.mark.parametrize("grid", [(1, 7), (7, 1), (1, 1), (2, 3), (5, 4)])
def test_rounding_of_cosines_does_not_change_the_map(grid: tuple[int, int]) -> None:
    """On a 1 x 7 grid, the middle of two enlarged cells is equally far from all patches."""
    inputs = cosines(grid[0] * grid[1])
    for seed in range(8):
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
        moved = class_distribution_map(inputs + 1e-7 * noise, grid)
        torch.testing.assert_close(moved, class_distribution_map(inputs, grid), atol=1e-4, rtol=0)


def test_a_patch_equally_far_from_all_has_zeros() -> None:
    result = class_distribution_map(cosines(7), (1, 7), scales=[0.37])[0]  # two cells
    assert torch.equal(result[3], torch.zeros(7))
    assert (result[[0, 1, 2, 4, 5, 6]].amax(-1) > 0.99).all()


def test_equal_patches_give_zeros() -> None:
    inputs = cosines(1).expand(1, 12, 5)
    assert torch.equal(class_distribution_map(inputs, (3, 4)), torch.zeros(1, 12, 12))


def test_divergence_is_scipys_across_blocks_of_rows() -> None:
    """scipy's distance is the root of it; its logarithms have no epsilon."""
    p = torch.softmax(8 * torch.cat([cosines(ROWS + 6), cosines(ROWS + 6, seed=1)]), -1).double()
    expected = jensenshannon(p.numpy()[:, :, None], p.numpy()[:, None], axis=-1) ** 2
    torch.testing.assert_close(divergence(p), torch.from_numpy(expected), atol=1e-7, rtol=0)
