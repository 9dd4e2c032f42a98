"""FreeCP: maps spread along attention, without redundant and ambiguous classes.

Chen et al., ICCV 2025: works with any variant. Each class's probability map is passed on along the
attention of the earlier blocks (`sclip_lab.segmentation.class_purification`). A class whose map
changes much is redundant. Of classes whose maps end alike, the one that best matches crops of the
photo stays. Every window is treated by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import readout_function
from sclip_lab.network.context import State
from sclip_lab.segmentation.class_purification import (
    Box,
    agreement,
    ambiguous,
    spread,
    transition,
    winners,
)
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine, unit


@readout_function
def freecp(
    encoded: Encoded,
    text: Tensor,
    second_text: Tensor | None = None,
    background: int = 0,
    redundancy: float = 0.15,
    ambiguity: float = 0.7,
    box_threshold: float = 0.4,
    crop_size: int = 112,
) -> Tensor:
    """Purified maps, 0 .. 1: (windows, grid_h, grid_w, queries).

    Args:
        second_text: (queries, embed_dim) unit text embeddings that crops are compared with: the
            protocol's ``second_templates``; None: ``text``.
        background: how many of the first queries are background; their maps are 0, so they get the
            pixels that no class claims.
        redundancy: a class stays if its map before and after agree by more.
        ambiguity: soft IoU from which two maps are alike.
        box_threshold: share of a map's maximum that makes a box.
        crop_size: side in pixels that crops are resized to.
    """
    limits = (background, redundancy, ambiguity, box_threshold, crop_size)
    crop_text = text if second_text is None else second_text
    windows = (encoded.part(slice(i, i + 1)) for i in range(len(encoded.images)))
    return torch.stack([purified(one, text, crop_text, *limits)[0] for one in windows])


def purified(
    one: Encoded,
    text: Tensor,
    crop_text: Tensor,
    background: int = 0,
    redundancy: float = 0.15,
    ambiguity: float = 0.7,
    box_threshold: float = 0.4,
    crop_size: int = 112,
) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """The maps of ``one`` window, with the steps before them.

    ``crop_text`` are the embeddings that crops are compared with; other arguments as in `freecp`.

    Returns:
        (grid_h, grid_w, queries) maps, 0 for dropped classes; the spread maps of all foreground
        classes (classes, grid_h, grid_w); the foreground classes that stay after redundancy and
        after ambiguity.
    """
    if not 0 <= background < len(text):
        raise LabError(f"background {background}: fewer than all {len(text)} queries wanted")
    backbone, prefix = one.backbone, one.backbone.blocks[0].prefix
    scale = float(backbone.model.logit_scale.exp())
    probability = torch.softmax(scale * cosine(one, text)[0].permute(2, 0, 1), dim=0)
    low, high = probability.amin(), probability.amax()
    maps = ((probability - low) / (high - low))[background:]
    attentions = [entered.attention().mean(dim=1)[0] for entered in one.history[:-1]]
    passing = transition(torch.stack(attentions).mean(dim=0)[prefix:, prefix:].float())
    refined = spread(maps, passing, box_threshold)
    score = agreement(probability[background:], refined)
    left = (score > redundancy).nonzero()[:, 0].tolist()
    groups = [[left[i] for i in group] for group in ambiguous(refined[left], ambiguity)]

    def of_crop(box: Box) -> Tensor | None:
        top, left_side, bottom, right = (backbone.patch_size * side for side in box)
        if bottom <= top or right <= left_side:
            return None
        crop = one.images[:, :, top:bottom, left_side:right]
        crop = F.interpolate(crop, (crop_size, crop_size), mode="bilinear", align_corners=False)
        tokens, grid = backbone.embed(crop), backbone.grid(crop_size, crop_size)
        for block in backbone.blocks_on(grid):
            tokens = block.plain(tokens)
        whole = backbone.project(State(tokens), grid)[1]
        return unit(whole.float())[0] @ crop_text[background:].to(whole.device).T.float()

    chosen = winners(refined, groups, of_crop, box_threshold)
    result = probability.new_zeros(probability.shape)
    result[[background + index for index in chosen]] = refined[chosen]
    return result.permute(1, 2, 0), refined, left, chosen
