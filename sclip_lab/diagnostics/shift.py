"""Do features move with the picture?

A definition of this laboratory, after the question of Gruver et al., ICLR 2023, arXiv 2210.02984
(how equivariant is a network?): move the photo by whole patches and compare features where both
see the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError

# Patches down and right.
SHIFT = (1, 1)


@dataclass(frozen=True, eq=False)
class ShiftEquivariance:
    """Mean cosines over the patches that both pictures contain; each (batch,) in -1 .. 1.

    Attributes:
        moved: with the feature of the same pixels, f(T x) and T f(x); 1 is equivariance.
        stayed: with the feature at the same place of the window, f(T x) and f(x); as high as
            ``moved`` where features belong to positions rather than to content.
        shuffled: with the feature of another patch drawn at random; the floor to compare with.
    """

    moved: Tensor
    stayed: Tensor
    shuffled: Tensor


def moved(images: Tensor, patch_size: int, shift: tuple[int, int] = SHIFT) -> Tensor:
    """Images by whole patches further down and right; args and errors as `shift_equivariance`."""
    down, right = shift
    height, width = images.shape[-2:]
    grid = height // patch_size, width // patch_size
    if not (0 <= down < grid[0] and 0 <= right < grid[1] and down + right > 0):
        raise LabError(f"shift {shift} of a {grid} grid: not (0, 0), and within the grid")
    y, x = down * patch_size, right * patch_size
    return F.pad(images, (x, 0, y, 0))[..., :height, :width]


def compare(
    before: Tensor, after: Tensor, shift: tuple[int, int] = SHIFT, seed: int = 0
) -> ShiftEquivariance:
    """Features of images and of the same images moved: (batch, grid_h, grid_w, dim) each."""
    down, right = shift
    grid = before.shape[1:3]
    overlap = after[:, down:, right:].flatten(1, 2)
    same_pixels = before[:, : grid[0] - down, : grid[1] - right].flatten(1, 2)
    same_place = before[:, down:, right:].flatten(1, 2)
    order = torch.randperm(same_pixels.shape[1], generator=torch.Generator().manual_seed(seed))
    others = same_pixels[:, order.to(same_pixels.device)]
    return ShiftEquivariance(
        *(
            F.cosine_similarity(overlap, z, dim=-1).mean(-1)
            for z in (same_pixels, same_place, others)
        )
    )
