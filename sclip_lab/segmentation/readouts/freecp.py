"""FreeCP: maps spread along attention, without redundant and ambiguous classes.

Chen et al., ICCV 2025: works with any variant. Class names that are not in a photo still claim
patches. Each class's probability map is spread along the attention of the earlier blocks. A class
whose map changes much is redundant. Of classes whose spread maps are alike, the one that best
matches crops of the photo stays. Every window is treated by itself.

Shapes: ``maps`` (classes, grid_h, grid_w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import readout_function
from sclip_lab.network.context import State
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine, unit

Box = tuple[int, int, int, int]
EPSILON = 1e-8  # below sums and ranges of maps, which may be 0
SINKHORN_ROUNDS = 3  # make rows and columns sum to about 1


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
        redundancy: a class stays if its maps before and after spreading agree by more.
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
    """The purified maps of ``one`` window, with the results of the steps before.

    ``crop_text`` are the embeddings that crops are compared with; other arguments as in `freecp`.

    Returns:
        (grid_h, grid_w, queries) maps, 0 for dropped classes; the spread maps of all foreground
        classes (classes, grid_h, grid_w); the foreground classes that stay after redundancy and
        after ambiguity.
    """
    if not 0 <= background < len(text):
        raise LabError(
            f"readout freecp: background {background} must be fewer than all {len(text)} queries"
        )
    backbone, prefix = one.backbone, one.backbone.blocks[0].prefix
    scale = float(backbone.model.logit_scale.exp())
    probability = torch.softmax(scale * cosine(one, text)[0].permute(2, 0, 1), dim=0)
    low, high = probability.amin(), probability.amax()
    maps = ((probability - low) / (high - low))[background:]
    attentions = [entered.attention().mean(dim=1)[0] for entered in one.history[:-1]]
    passing = transition(torch.stack(attentions).mean(dim=0)[prefix:, prefix:].float())
    refined = spread(maps, passing, box_threshold)
    score = agreement(probability[background:], refined)
    stays = (score > redundancy).nonzero()[:, 0].tolist()
    groups = [[stays[i] for i in group] for group in ambiguous(refined[stays], ambiguity)]

    def of_crop(box: Box) -> Tensor | None:
        top, left, bottom, right = (backbone.patch_size * side for side in box)
        if bottom <= top or right <= left:
            return None
        crop = one.images[:, :, top:bottom, left:right]
        crop = F.interpolate(crop, (crop_size, crop_size), mode="bilinear", align_corners=False)
        tokens, grid = backbone.embed(crop), backbone.grid(crop_size, crop_size)
        for block in backbone.blocks_on(grid):
            tokens = block.plain(tokens)
        whole = backbone.project(State(tokens), grid)[1]
        return unit(whole.float())[0] @ crop_text[background:].to(whole.device).T.float()

    chosen = winners(refined, groups, of_crop, box_threshold)
    result = probability.new_zeros(probability.shape)
    result[[background + index for index in chosen]] = refined[chosen]
    return result.permute(1, 2, 0), refined, stays, chosen


def transition(attention: Tensor) -> Tensor:
    """How patches pass activation on: attention made doubly stochastic, symmetric, and squared.

    (patches, patches), not negative, same shape out.
    """
    result = attention
    for _ in range(SINKHORN_ROUNDS):
        result = result / result.sum(dim=0, keepdim=True)
        result = result / result.sum(dim=1, keepdim=True)
    result = (result + result.T) / 2
    return result @ result


def boxes(activation: Tensor, threshold: float = 0.4) -> list[Box]:
    """Boxes around the parts of a map that are above a share of its maximum.

    ``activation`` is (grid_h, grid_w) in 0 .. 1, rounded down to 1 / 255 first. Returns (top, left,
    bottom, right) in patches, of the contours of all parts and of their holes.
    """
    # OpenCV looks for contours in bytes.
    levels = (255 * activation).cpu().numpy().astype(np.uint8)
    above = (levels > int(threshold * levels.max())).astype(np.uint8)
    contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    height, width = levels.shape
    result = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        # The ends are exclusive, and at most the side less one: in the official code, the last row
        # and column are never inside.
        result.append((y, x, min(y + h, height - 1), min(x + w, width - 1)))
    return result


def spread(maps: Tensor, passing: Tensor, threshold: float = 0.4) -> Tensor:
    """Cut each map to its boxes, spread it by ``passing`` from `transition`, scale it to 0 .. 1."""
    inside = torch.zeros_like(maps)
    for mask, one in zip(inside, maps, strict=True):
        for top, left, bottom, right in boxes(one, threshold):
            mask[top:bottom, left:right] = 1
    moved = (inside * maps).flatten(1) @ passing.T
    low, high = moved.amin(dim=1, keepdim=True), moved.amax(dim=1, keepdim=True)
    return ((moved - low) / (high - low + EPSILON)).view_as(maps)


def agreement(before: Tensor, after: Tensor) -> Tensor:
    """(classes,): sum of products over sum of both maps, 0 .. 1/2; small for redundant classes."""
    before, after = before.flatten(1), after.flatten(1)
    both = (before * after).sum(dim=1)
    return both / (before.sum(dim=1) + after.sum(dim=1) + EPSILON)


def ambiguous(maps: Tensor, threshold: float) -> list[list[int]]:
    """Indices of maps in groups, in order. Two maps are linked if their soft IoU is at least
    ``threshold``; the maps of a group are linked directly or through other maps.

    Soft IoU is the sum of the smaller over the sum of the larger of two maps.
    """
    flat = maps.flatten(1)
    smaller = torch.minimum(flat[:, None], flat[None]).sum(-1)
    larger = torch.maximum(flat[:, None], flat[None]).sum(-1)
    linked = smaller / larger >= threshold
    count, numbers = connected_components(linked.cpu().numpy(), directed=False)
    return [np.flatnonzero(numbers == number).tolist() for number in range(count)]


def winners(
    maps: Tensor,
    groups: Sequence[Sequence[int]],
    score: Callable[[Box], Tensor | None],
    threshold: float = 0.4,
) -> list[int]:
    """The classes that each group keeps: of several, the best in each box of their mean map.

    ``score`` returns the (classes,) scores of a box; None for a box without pixels, which keeps the
    whole group.
    """
    chosen: set[int] = set()
    for group in groups:
        if len(group) == 1:
            chosen.update(group)
            continue
        for box in boxes(maps[list(group)].mean(dim=0), threshold):
            scores = score(box)
            if scores is None:
                chosen.update(group)
            else:
                chosen.add(group[int(scores[list(group)].argmax())])
    return sorted(chosen)
