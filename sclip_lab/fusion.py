"""Fusing what several levels of one network say about each patch.

CLIPer: Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836: its CLIP part, without the
diffusion refinement. One variant a level (`sclip_lab.attention.cliper.level`), so that the levels
share every block before the last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab import tree
from sclip_lab.attention.variant import build
from sclip_lab.backbone import Backbone
from sclip_lab.errors import LabError

LEVEL = "sclip_lab.attention.cliper.level"


@torch.inference_mode()
def cliper_maps(
    backbone: Backbone,
    images: Tensor,
    foreground: Tensor,
    background: Tensor,
    scale: float = 50.0,
    threshold: float = 0.2,
) -> Tensor:
    """CLIPer's score of each foreground class at each patch.

    Args:
        backbone: from `load_backbone`; the official code runs with the position-embedding rule
            ``bilinear_half``.
        images: (batch, 3, height, width), normalised.
        foreground: (classes, embed_dim) unit text embeddings.
        background: (names, embed_dim) unit text embeddings; they only compete.
        scale: factor on cosines before the softmax.
        threshold: share of its maximum below which the last level's map is set to 0.

    Returns:
        (batch, classes, grid_h, grid_w) float32, not negative.
    """
    if foreground.ndim != 2 or background.ndim != 2:
        raise LabError("foreground and background must be (names, embed_dim)")
    grid = backbone.grid(*images.shape[-2:])
    variants = [build({"_target_": LEVEL, "source": i}) for i in range(backbone.depth)]
    text = _text(foreground, background).to(backbone.device)
    levels: list[Tensor] = [text] * len(variants)
    for index, state in tree.run(backbone.blocks, backbone.embed(images), grid, variants):
        patches = backbone.project(state, grid)[0].flatten(1, 2).float()
        patches = patches / patches.norm(dim=-1, keepdim=True)
        levels[index] = torch.softmax(scale * patches @ text.T, dim=-1)[..., : len(foreground)]
        if index == len(variants) - 1:
            assert state.attention is not None
            attention = state.attention.float().mean(dim=1)[:, 1:, 1:]
    maps = fused(torch.stack(levels).mT, attention, threshold)
    return maps.unflatten(-1, grid)


def fused(levels: Tensor, attention: Tensor, threshold: float) -> Tensor:
    """The last level, thresholded and spread along attention, plus the mean of all levels.

    Args:
        levels: (levels, batch, classes, patches) probabilities.
        attention: (batch, patches, patches) of the last level, mean over heads.
        threshold: 0 .. 1, share of each class's maximum.

    Returns:
        (batch, classes, patches).
    """
    last = levels[-1]
    kept = torch.where(last < threshold * last.amax(dim=-1, keepdim=True), 0.0, last)
    # The thresholded map also replaces the last level inside the mean.
    mean = (levels[:-1].sum(dim=0) + kept) / len(levels)
    return kept @ attention + mean


def _text(foreground: Tensor, background: Tensor) -> Tensor:
    """Rows that compete: both lists, and the direction of the mean foreground class."""
    mean = foreground.mean(dim=0, keepdim=True)
    return torch.cat([foreground, background, mean / mean.norm()]).float()
