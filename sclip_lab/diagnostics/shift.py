"""Do features move with the picture?

A definition of this laboratory, after the question of Gruver et al., ICLR 2023, arXiv 2210.02984
(how equivariant is a network?): move the photo by one patch down and right, and compare features
where both pictures show the same pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def moved(images: Tensor, patch_size: int) -> Tensor:
    """Images (batch, channels, height, width) by one patch further down and right; what comes into
    sight there is 0."""
    height, width = images.shape[-2:]
    return F.pad(images, (patch_size, 0, patch_size, 0))[..., :height, :width]


def compare(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosines over the patches that both pictures show.

    ``before`` and ``after`` are (batch, grid_h, grid_w, dim) features of images and of the same
    images `moved`. Returns two cosines, (batch,) each, in -1 .. 1: between features of the same
    pixels, 1 for an equivariant network; and, as the floor to compare with, between features of
    patches paired at random. NaN where no patch is in both.
    """
    overlap = after[:, 1:, 1:].flatten(1, 2)
    same_pixels = before[:, :-1, :-1].flatten(1, 2)
    order = torch.randperm(same_pixels.shape[1], generator=torch.Generator().manual_seed(0))
    others = same_pixels[:, order.to(same_pixels.device)]
    same, random = (F.cosine_similarity(overlap, z, dim=-1).mean(-1) for z in (same_pixels, others))
    return same, random
