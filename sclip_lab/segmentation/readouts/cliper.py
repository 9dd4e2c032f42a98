"""Fusing what several levels of one network say about each patch.

CLIPer: Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836: its CLIP part, without the
diffusion refinement. The levels below the last differ from it in the last block alone
(`sclip_lab.attention.cliper.level`), which reads every block's attention from the first pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.attention.cliper import level
from sclip_lab.errors import LabError
from sclip_lab.network.context import Context, State
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit


def cliper(encoded: Encoded, text: Tensor, scale: float = 50.0, threshold: float = 0.2) -> Tensor:
    """CLIPer's fused maps, for any variant: the levels below the last are CLIPer's own.

    The official code drops the maps of background names, which only compete; here they are kept,
    since background is a class like the others.

    Args:
        encoded, text: as for every readout. The official code runs with the position-embedding
            rule ``bilinear_half``.
        scale: factor on cosines before the softmax over texts.
        threshold: share of its maximum below which the last level's map is set to 0.
    """
    return cliper_maps(encoded, text, text[:0], scale, threshold).permute(0, 2, 3, 1)


def cliper_maps(
    encoded: Encoded,
    foreground: Tensor,
    background: Tensor,
    scale: float = 50.0,
    threshold: float = 0.2,
) -> Tensor:
    """CLIPer's score of each foreground class at each patch.

    Args:
        encoded: windows with a variant that keeps one attention map.
        foreground: (classes, embed_dim) unit text embeddings.
        background: (names, embed_dim) unit text embeddings; they only compete.
        scale, threshold: as in `cliper`.

    Returns:
        (windows, classes, grid_h, grid_w) float32, not negative.

    Raises:
        LabError: a variant without a single attention map of patches in its last block.
    """
    if foreground.ndim != 2 or background.ndim != 2:
        raise LabError("foreground and background must be (names, embed_dim)")
    if encoded.state.attention is None:
        raise LabError(
            f"readout cliper: attention '{encoded.variant.name}' has no single map to spread along"
        )
    backbone, entered = encoded.backbone, encoded.history[-1]
    text = _text(foreground, background).to(encoded.patches.device)

    def probabilities(patches: Tensor) -> Tensor:
        cosines = unit(patches.float().flatten(1, 2)) @ text.T
        return torch.softmax(scale * cosines, dim=-1)[..., : len(foreground)]

    levels = []
    context = Context(entered, encoded.history[:-1], encoded.grid)
    for source in range(backbone.depth - 1):
        state = level(entered.block, State(entered.tokens), context, source)
        levels.append(probabilities(backbone.project(state, encoded.grid)[0]))
    levels.append(probabilities(encoded.patches))
    patches = levels[-1].shape[1]
    attention = encoded.state.attention.float().mean(dim=1)[:, -patches:, -patches:]
    return fused(torch.stack(levels).mT, attention, threshold).unflatten(-1, encoded.grid)


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
