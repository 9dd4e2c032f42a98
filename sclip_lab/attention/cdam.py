"""CDAM: the map of a second pass compares the class distributions of patches.

Kang et al., "Class distribution-induced attention map", ICLR 2025 (openreview CMqOfvD3tO). With
p_i the softmax over texts (targets and auxiliary words) of a patch's cosines in the first pass, and
J_ij the Jensen-Shannon divergence of p_i and p_j,

    W = mean over scales of sharpen(J of the cosines resized to that scale)

multiplies the values of the second pass. Rows of W are not normalised. The class token has no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import mix_function, uses
from sclip_lab.core.values import within
from sclip_lab.network.context import Context, Grid

EPSILON = 1e-8  # in logarithms of probabilities, and below a row's range
# A row with a smaller range counts as constant. Two stretches by 1 / EPSILON would turn a range of
# 1e-16 into 0.5, and the rounding of cosines (1e-7) hides divergences below this anyway.
CONSTANT = 1e-10
ROWS = 64  # of a divergence map at once
SCALES = (1.0, 0.25, 0.37, 0.5, 0.63, 0.75, 0.87)  # the whole grid first, as released


@uses("text")
@mix_function
def cdam(
    ctx: Context,
    weights: Tensor,
    temperature: float = 0.1,
    sharpness: float = 10.0,
    scales: Sequence[float] = SCALES,
) -> Tensor:
    """W of the module's formula, a ``mix`` for any weights function, which makes the first pass.

    If several blocks are rewritten, blocks before the last keep the weights of the function: only
    the last block's tokens are compared with texts. The variant's residual and MLP follow in both
    passes.

    Args:
        weights: (batch, heads, tokens, tokens) of the weights function.
        temperature: > 0, temperature of the softmax over texts.
        sharpness: factor on 1 - J before the softmax of a row.
        scales: shares of the grid's sides, each in (0, 1].

    Returns:
        the shape of ``weights``; in the last block equal for all heads, with rows of any sum.
    """
    within("temperature", temperature, 0, above=True)
    if ctx.block.index < ctx.block.depth - 1:
        return weights
    prefix, text = ctx.block.prefix, ctx.text.all
    features = ctx.head(ctx.finished(weights)[:, prefix:]).float()
    cosines = features / features.norm(dim=-1, keepdim=True) @ text.to(features).T
    maps = class_distribution_map(cosines, ctx.grid, temperature, sharpness, scales)
    return F.pad(maps, (prefix, 0, prefix, 0))[:, None].expand_as(weights).to(weights)


def class_distribution_map(
    cosines: Tensor,
    grid: Grid,
    temperature: float = 0.1,
    sharpness: float = 10.0,
    scales: Sequence[float] = SCALES,
) -> Tensor:
    """W between patches, (batch, patches, patches) in 0 .. 1, not symmetric; settings as in `cdam`.

    A scale leaves at least one row and one column. A grid of one cell, or a patch that is equally
    far from all others, gives zeros. ``cosines`` are (batch, grid_h * grid_w, texts).
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise LabError(f"scales {list(scales)}: at least one, each in (0, 1]")
    # In double: for similar patches, J is a small difference of large numbers, and it is stretched
    # to 0 .. 1 afterwards.
    maps = cosines.mT.unflatten(-1, grid).double()
    total = maps.new_zeros(len(cosines), cosines.shape[1], cosines.shape[1])
    for scale in scales:
        size = max(1, int(grid[0] * scale)), max(1, int(grid[1] * scale))
        small = F.interpolate(maps, size, mode="bilinear") if size != grid else maps
        p = torch.softmax(small.flatten(2).mT / temperature, dim=-1)
        total += sharpened(enlarged(divergence(p), size, grid), sharpness)
    return (total / len(scales)).to(cosines)


def divergence(p: Tensor) -> Tensor:
    """Jensen-Shannon divergences in nats: (batch, n, texts) -> (batch, n, n).

    The loop takes one text and some rows at a time: it makes no (n, n, texts) array, and its arrays
    fit a CPU's cache. J is symmetric, so the part left of the diagonal is copied from the right.
    """
    self_term = (p * torch.log(p + EPSILON)).sum(-1)
    batch, count = self_term.shape
    result = p.new_empty(batch, count, count)
    images, rows = (1, ROWS) if p.device.type == "cpu" else (batch, count)
    for first, top in product(range(0, batch, images), range(0, count, rows)):
        some, here, right = slice(first, first + images), slice(top, top + rows), slice(top, None)
        part = (self_term[some, here, None] + self_term[some, None, right]) / 2
        mean, log = torch.empty_like(part), torch.empty_like(part)
        for text in p[some].unbind(-1):
            torch.add(text[:, here, None], text[:, None, right], out=mean).div_(2)
            torch.add(mean, EPSILON, out=log).log_()
            part.addcmul_(mean, log, value=-1)
        result[some, here, right] = part
        result[some, right, here] = part.mT
    return result


def enlarged(between: Tensor, size: Grid, grid: Grid) -> Tensor:
    """(batch, cells, cells) -> (batch, patches, patches), bilinear along keys and queries."""
    if size == grid:
        return between
    for _ in range(2):  # along the keys, and after the transposition along the queries
        maps = between.unflatten(-1, size)
        between = F.interpolate(maps, grid, mode="bilinear").flatten(2).mT
    return between


def sharpened(divergences: Tensor, sharpness: float = 10.0) -> Tensor:
    """softmax(sharpness * (1 - J)) of each row, stretched to 0 .. 1 before and after."""
    stretched = _stretched(1 - divergences)
    return _stretched(torch.softmax(sharpness * stretched, dim=-1))


def _stretched(rows: Tensor) -> Tensor:
    """Stretch each row to 0 .. 1; a constant row becomes 0."""
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    stretched = (rows - low) / (high - low + EPSILON)
    return stretched.masked_fill(high - low < CONSTANT, 0)
