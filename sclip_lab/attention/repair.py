"""Outlier patches: three tests that find them, and a repair from their neighbours.

Some patch tokens of a trained CLIP carry global content: their norm grows, and the class token
attends to them more than they attend to themselves. The tests are

- ``lof``, local outlier factor: SC-CLIP, arXiv 2411.15869, after Breunig et al. 2000;
- ``class_attention``, A_cls,j > A_jj: SFP, Jin et al., "Feature Purification Matters", ICCV 2025,
  pages 20291-20300, https://github.com/Kimsure/SFP;
- ``norm``, the largest tokens: Darcet et al., arXiv 2309.16588, and SFP's baseline.

Each test has a *repair*, tokens in, tokens out, which works with any attention.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.functions import repair_function
from sclip_lab.core.values import within
from sclip_lab.network.context import Context, Grid
from sclip_lab.network.depth import Layer

Isolated = Literal["keep", "zero", "undefined"]


def lof_scores(patches: Tensor, neighbours: int = 30) -> Tensor:
    """(batch, patches) float32 local outlier factors of (batch, patches, width).

    score_i = d_i * mean over the k nearest patches j of 1 / d_j, where d_i is the squared Euclidean
    distance from patch i to its k-th nearest other patch. Breunig et al. use the reachability
    distance max(d_j, |i - j|^2) in place of d_i; for k = 1 the two are the same. Scores are about 1
    inside a cluster, larger for an outlier, and 1 if there is no other patch. k is ``neighbours``,
    at most patches - 1.
    """
    within("neighbours", neighbours, 1)
    count = patches.shape[1]
    if count == 1:
        return patches.new_ones(patches.shape[:2], dtype=torch.float32)
    # Distances do not change if the mean is subtracted, and the expanded square cancels less.
    centred = patches.float() - patches.float().mean(1, keepdim=True)
    square = centred.square().sum(-1)
    distance = square[:, :, None] + square[:, None] - 2 * centred @ centred.transpose(1, 2)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest, index = distance.topk(min(neighbours, count - 1), dim=-1, largest=False)
    reach = nearest[..., -1].clamp_min(1e-12)  # equal patches have distance 0 and score 1
    around = reach.reciprocal().gather(1, index.flatten(1)).view_as(nearest)
    return reach * around.mean(-1)


def lof_mask(patches: Tensor, neighbours: int = 30, quantile: float = 0.95) -> Tensor:
    """(batch, patches) bool: local outlier factor above a quantile of the image's factors.

    ``quantile``, 0 .. 1, is linear between ranks; 0.95 makes about 5 % of the patches outliers.
    """
    within("quantile", quantile, 0, 1)
    factor = lof_scores(patches, neighbours)
    return factor > torch.quantile(factor, quantile, dim=1, keepdim=True)


def norm_mask(patches: Tensor, count: int | None = 10, threshold: float = 0.0) -> Tensor:
    """(batch, patches) bool: the ``count`` largest norms of an image that are above ``threshold``.

    ``count`` None takes all above ``threshold``; 30 separates outliers in OpenAI's ViT-B/16.
    """
    size = patches.float().norm(dim=-1)
    return _largest(size, size > threshold, count)


def class_attention_mask(
    attention: Tensor, factor: float = 1.5, count: int | None = 10, prefix: int = 1
) -> Tensor:
    """(batch, patches) bool: the class token attends to patch j more than j does to itself.

    factor * A_cls,j > A_jj, with A the mean over heads of ``attention``, (batch, heads, tokens,
    tokens). Of these patches an image keeps the ``count`` with the largest A_cls,j; None: all. The
    first of the ``prefix`` tokens before the patches is the class token.
    """
    within("factor", factor, 0, above=True)
    mean = attention.float().mean(1)
    from_class, to_self = mean[:, 0, prefix:], mean.diagonal(dim1=1, dim2=2)[:, prefix:]
    return _largest(from_class, factor * from_class > to_self, count)


def repaired(tokens: Tensor, outliers: Tensor, grid: Grid, isolated: Isolated = "keep") -> Tensor:
    """Replace each outlier by the mean of its 8 neighbours that are no outliers.

    Args:
        tokens: (batch, tokens, width), same shape out; all other tokens are unchanged.
        outliers: (batch, grid_h * grid_w) bool.
        grid: (grid_h, grid_w).
        isolated: an outlier without such a neighbour stays (``keep``, SC-CLIP), becomes ``zero``,
            or is ``undefined``: SFP's code divides 0 by 0 there, which spreads over the window and
            makes all of it class 0. Such a window is refused, unless the readout is
            `sclip_lab.segmentation.readouts.sfp`. SFP's preset has ``zero``, a deviation.
    """
    prefix = tokens.shape[1] - math.prod(grid)
    patches = tokens[:, prefix:]
    clean = (~outliers[..., None]).to(tokens.dtype)
    # An outlier's own place in its 3 x 3 box is masked, so the box is the 8 neighbours.
    total, number = _boxes(torch.where(outliers[..., None], 0, patches), grid), _boxes(clean, grid)
    mean = total / (number if isolated == "undefined" else number.clamp_min(1))
    replace = outliers[..., None]
    if isolated == "keep":
        replace = replace & (number > 0)
    return torch.cat([tokens[:, :prefix], torch.where(replace, mean, patches)], dim=1)


@repair_function
def lof(
    context: Context,
    tokens: Tensor | None = None,
    neighbours: int = 30,
    quantile: float = 0.95,
    isolated: Isolated = "keep",
) -> Tensor:
    """Repair the outliers that `lof_mask` finds in the block's input.

    ``tokens``, (batch, tokens, width), are repaired at the outliers' places; None: the block's
    input. ``isolated`` is as in `repaired`, ``neighbours`` and ``quantile`` are as in `lof_mask`.
    """
    mask = context.input.once(
        ("lof", neighbours, quantile),
        lambda: lof_mask(context.tokens[:, context.block.prefix :], neighbours, quantile),
    )
    return repaired(context.tokens if tokens is None else tokens, mask, context.grid, isolated)


@repair_function
def norm(
    context: Context,
    tokens: Tensor | None = None,
    count: int | None = 10,
    threshold: float = 0.0,
    isolated: Isolated = "keep",
) -> Tensor:
    """Repair what `norm_mask` finds in the block's input; ``tokens``, ``isolated`` as in `lof`."""
    mask = norm_mask(context.tokens[:, context.block.prefix :], count, threshold)
    return repaired(context.tokens if tokens is None else tokens, mask, context.grid, isolated)


@repair_function
def class_attention(
    context: Context,
    tokens: Tensor | None = None,
    source: Layer | None = None,
    factor: float = 1.5,
    count: int | None = 10,
    isolated: Isolated = "keep",
) -> Tensor:
    """Repair what `class_attention_mask` finds in an earlier block's trained attention.

    ``source`` is that block; None: the block before the repaired one. ``factor`` and ``count`` are
    as in `class_attention_mask`, other arguments as in `lof`.

    Raises:
        LabError: a network without class token.
    """
    context.block.need_class_token("repair class_attention", "set repair to lof or norm")
    layer = max(context.block.index - 1, 0) if source is None else source
    trained = context.earlier(layer).attention()
    mask = class_attention_mask(trained, factor, count, context.block.prefix)
    return repaired(context.tokens if tokens is None else tokens, mask, context.grid, isolated)


def _largest(score: Tensor, chosen: Tensor, count: int | None) -> Tensor:
    """(batch, patches) bool: the ``count`` of an image's ``chosen`` with the largest scores."""
    if count is None:
        return chosen
    within("count", count, 0)
    candidates = score.masked_fill(~chosen, -torch.inf)
    top = candidates.topk(min(count, score.shape[1]), dim=1).indices
    return chosen & torch.zeros_like(chosen).scatter(1, top, True)


def _boxes(patches: Tensor, grid: Grid) -> Tensor:
    """Sums over 3 x 3 patches: (batch, patches, width), same shape out."""
    image = patches.transpose(1, 2).unflatten(2, grid)
    boxes = F.avg_pool2d(image, 3, stride=1, padding=1, divisor_override=1)
    return boxes.flatten(2).transpose(1, 2)
