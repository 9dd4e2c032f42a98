"""Do features move with the picture?

A definition of this laboratory, after the question of Gruver et al., ICLR 2023, arXiv 2210.02984
(how equivariant is a network?): move the photo by whole patches and compare features where both
pictures show the same pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError

SHIFT = (1, 1)  # patches down and right


def moved(images: Tensor, patch_size: int, shift: tuple[int, int] = SHIFT) -> Tensor:
    """Images by whole patches further down and right; what comes into sight there is 0.

    ``images`` are (batch, channels, height, width), ``shift`` is in patches.

    Raises:
        LabError: no shift, or one that leaves no patch in sight.
    """
    down, right = shift
    height, width = images.shape[-2:]
    grid = height // patch_size, width // patch_size
    if not (0 <= down < grid[0] and 0 <= right < grid[1] and down + right > 0):
        raise LabError(f"shift {shift} of a {grid} grid: not (0, 0), and within the grid")
    y, x = down * patch_size, right * patch_size
    return F.pad(images, (x, 0, y, 0))[..., :height, :width]


def compare(
    before: Tensor, after: Tensor, shift: tuple[int, int] = SHIFT, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean cosines over the patches that both pictures show.

    ``before`` and ``after`` are (batch, grid_h, grid_w, dim) features of images and of the same
    images moved by ``shift`` patches. (batch,) each, in -1 .. 1: of features of the same pixels, 1
    for an equivariant network; and of two patches drawn at random, the floor to compare with.
    """
    down, right = shift
    grid = before.shape[1:3]
    overlap = after[:, down:, right:].flatten(1, 2)
    same_pixels = before[:, : grid[0] - down, : grid[1] - right].flatten(1, 2)
    order = torch.randperm(same_pixels.shape[1], generator=torch.Generator().manual_seed(seed))
    others = same_pixels[:, order.to(same_pixels.device)]
    same, random = (F.cosine_similarity(overlap, z, dim=-1).mean(-1) for z in (same_pixels, others))
    return same, random
