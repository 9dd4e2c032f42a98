"""GLA-CLIP: all windows of a photo attend to each other.

GLA-CLIP: CVPR 2026, arXiv 2603.23030. Keys and values are the patches of all B windows of a photo,
S each; the queries of every window see all of them. With K the unit features of all patches, one
map serves all heads:

    A = softmax_j(gamma_i (sim_ij - beta mean_i))   over the j where it is not negative

``sim`` = K K^T, or a K^T with *anchors* a. An anchor is the unit mean of the patches whose
similarity to the previous anchor is above a threshold, so that a query stands for a whole region.

Shapes: ``nodes`` = B * S, window by window, row-major within a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import block_edit, uses
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context, State
from sclip_lab.network.scene import Grid, Placement, squared_distances

# Values of a matrix between patches in memory at once; with many windows, of only some rows.
LARGEST = 1 << 23
# Added to the number of patches in a mean, as the official code does.
EPSILON = 1e-6
Norm = Literal["token", "photo"]
Start = Literal["patch", "neighbourhood", "unit_neighbourhood"]


@uses("photo")
@block_edit
def gla(
    block: Block,
    state: State,
    ctx: Context,
    source: str = "query",
    norm: Norm = "token",
    beta: float = 1.2,
    gamma: float = 3.0,
    dynamic_beta: float = 0.0,
    dynamic_gamma: float = 0.0,
    anchors: Start | None = None,
    rounds: int = 2,
    threshold: float = 0.6,
    include_self: bool = True,
) -> State:
    """GLA-CLIP's block, without residual and MLP; patches do not see class tokens.

    The state has no attention map, since rows are longer than a window.

    Args:
        source: the projection of the block that K is made of, over its full width.
        norm: subtract the mean similarity of each ``token``'s row, at least 0, or that of all pairs
            of the ``photo``.
        beta: factor on the mean similarity.
        gamma: > 0, inverse temperature.
        dynamic_beta: dynamic_beta * ln(1 + B) is added to beta.
        dynamic_gamma: gamma_i is 1 + dynamic_gamma / number of patches of anchor i; 0 takes
            ``gamma``. Needs anchors.
        anchors: start of the gathering: ``patch``, the ``neighbourhood`` mean of the raw source, or
            of its unit vectors (``unit_neighbourhood``); None: no anchors.
        rounds, threshold: of the gathering, see `gathered`.
        include_self: count the patch itself in its neighbourhood.

    Raises:
        LabError: an unknown source, or dynamic_gamma without anchors.
    """
    weighting = (norm, beta, gamma, dynamic_beta, dynamic_gamma)
    gathering = (anchors, rounds, threshold, include_self)
    return _attend(block, state, ctx, full_width(ctx, source), (*weighting, *gathering))


@uses("guidance", "photo")
@block_edit
def gla_guided(
    block: Block,
    state: State,
    ctx: Context,
    norm: Norm = "token",
    beta: float = 1.0,
    gamma: float = 3.0,
    dynamic_beta: float = 0.3,
    dynamic_gamma: float = 30.0,
    anchors: Start | None = "patch",
    rounds: int = 2,
    threshold: float = 0.6,
    include_self: bool = True,
) -> State:
    """GLA-CLIP on ProxyCLIP: K from a second network's features, resized to the patches.

    Args and errors as in `gla`; there must be guidance.
    """
    weighting = (norm, beta, gamma, dynamic_beta, dynamic_gamma)
    gathering = (anchors, rounds, threshold, include_self)
    return _attend(block, state, ctx, ctx.guidance.on(ctx.grid), (*weighting, *gathering))


def full_width(ctx: Context, projection: str) -> Tensor:
    """A projection of the patches with its heads side by side: (windows, patches, width)."""
    heads = ctx.input.projected(projection)[:, :, ctx.block.prefix :]
    return heads.transpose(1, 2).flatten(2)


def _attend(
    block: Block, state: State, ctx: Context, raw: Tensor, settings: tuple[Any, ...]
) -> State:
    """The state behind the block with K from ``raw``, (windows, patches, channels)."""
    value = ctx.value[:, :, block.prefix :]
    per_head = torch.empty_like(value)
    for photo in ctx.photos:
        all_values = value[photo.windows].transpose(0, 1).flatten(1, 2)
        blocks = photo_weights(raw[photo.windows], photo, ctx.grid, *settings)
        rows = torch.cat([weights.to(all_values) @ all_values for weights in blocks], dim=1)
        per_head[photo.windows] = rows.unflatten(1, (len(photo), -1)).transpose(0, 1)
    joined = torch.cat([ctx.value[:, :, : block.prefix], per_head], dim=2)
    return replace(state, tokens=block.merge(joined), attention=None)


def photo_weights(
    raw: Tensor,
    photo: Placement,
    grid: Grid,
    norm: Norm,
    beta: float,
    gamma: float,
    dynamic_beta: float,
    dynamic_gamma: float,
    anchors: Start | None,
    rounds: int,
    threshold: float,
    include_self: bool,
) -> Iterator[Tensor]:
    """A of the module's formula for one photo, in blocks of (rows, nodes).

    ``raw`` is K before it gets unit norm, (B, patches, channels); ``grid`` is a window's; other
    arguments are as in `gla`.
    """
    if dynamic_gamma and anchors is None:
        raise LabError("dynamic_gamma needs anchors: it divides by how many patches each has")
    start = raw.float().flatten(0, 1)
    keys = F.normalize(start, dim=-1)
    queries = keys
    sharp: float | Tensor = gamma
    if anchors is not None:
        if anchors != "patch":
            place = photo.pixel_numbers(grid).to(keys.device)
            start = start if anchors == "neighbourhood" else keys
            start = neighbourhood_mean(start, place, len(photo), grid, include_self)
        queries, count = gathered(start, keys, rounds, threshold)
        if dynamic_gamma:
            sharp = 1 + dynamic_gamma / count[:, None]
    centre = beta + dynamic_beta * math.log(1 + len(photo))
    blocks, mean = row_blocks(len(keys)), None
    if norm == "photo" and len(blocks) > 1:
        sums = [(queries[rows] @ keys.T).sum(dtype=torch.float64) for rows in blocks]
        mean = (torch.stack(sums).sum() / len(keys) ** 2).to(keys)
    for rows in blocks:
        of_rows = sharp[rows] if isinstance(sharp, Tensor) else sharp
        yield weights_across(queries[rows], keys, centre, of_rows, norm, mean)


def gathered(start: Tensor, keys: Tensor, rounds: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Gather anchors from ``start``, (nodes, channels), among ``keys`` of unit norm.

    In each of ``rounds`` >= 1, an anchor becomes the mean of the patches whose cosine with it is
    above ``threshold``. Returns the anchors, of unit norm, and the count of patches in each.
    """
    anchors, counts = start, [torch.empty(0)]
    for _ in range(rounds):
        means, counts = [], []
        for rows in row_blocks(len(keys)):
            hit = F.normalize(anchors[rows], dim=-1) @ keys.T > threshold
            alone = ~hit.any(dim=-1)
            hit.diagonal(rows.start)[:] |= alone  # if no patch is above, take the patch itself
            count = hit.sum(dim=-1)
            mean = hit.to(keys) @ keys / (count[:, None] + EPSILON)
            means.append(F.normalize(mean, dim=-1))
            counts.append(count)
        anchors = torch.cat(means)
    return anchors, torch.cat(counts)


def neighbourhood_mean(
    features: Tensor, pixels: Tensor, windows: int, grid: Grid, include_self: bool
) -> Tensor:
    """(nodes, channels): mean of ``features`` over the same place in other windows, the 8
    neighbours and, with ``include_self``, the patch itself.

    ``pixels``, (nodes,), are the index of each patch's first pixel in the photo; patches of equal
    index lie at one place. ``windows`` is B, ``grid`` a window's.
    """
    near = (squared_distances(grid) <= 2).to(features.device)
    step = max(1, LARGEST // len(near) // len(features))  # windows
    means = []
    for first in range(0, windows, step):
        some = min(step, windows - first)
        rows = slice(first * len(near), (first + some) * len(near))
        members = pixels[rows, None] == pixels
        members[:, rows] |= torch.block_diag(*[near] * some)
        if not include_self:
            members.diagonal(rows.start)[:] = False
        count = members.sum(dim=-1, keepdim=True).clamp(min=1)
        means.append(members.to(features) @ features / count)
    return torch.cat(means)


def row_blocks(nodes: int) -> list[slice]:
    """Split the rows of a (nodes, nodes) matrix into blocks of at most `LARGEST` values."""
    step = max(1, LARGEST // nodes)
    return [slice(first, min(first + step, nodes)) for first in range(0, nodes, step)]


def weights_across(
    queries: Tensor,
    keys: Tensor,
    beta: float,
    gamma: float | Tensor,
    norm: Norm = "token",
    mean: Tensor | None = None,
) -> Tensor:
    """softmax(gamma * (a K^T - beta * mean)) over the entries that are not negative.

    A row with negative entries alone keeps its largest. ``queries`` and ``keys`` are a and K,
    (nodes, channels), of unit norm; ``gamma`` may be (nodes, 1); ``mean`` is the photo's mean over
    all pairs, if ``queries`` are only some of its patches. Returns (queries, keys); rows sum to 1.
    """
    similarities = queries @ keys.T
    if norm == "token":
        mean = similarities.mean(dim=-1, keepdim=True).clamp(min=0)
    elif mean is None:
        mean = similarities.mean()
    raw = gamma * (similarities - beta * mean)
    least = raw.amax(dim=-1, keepdim=True).clamp(max=0)
    return torch.softmax(raw.masked_fill(raw < least, -torch.inf), dim=-1)
