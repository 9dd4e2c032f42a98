"""ProxyCLIP: attention from a second network's features, and the same map for other methods.

ProxyCLIP: Lan, Chen, Ke, Wang, Feng, Zhang, ECCV 2024, arXiv 2408.04883, section 3. With u the unit
feature vectors of a frozen second network on its own grid, and the mean over all pairs of a window:

    A = softmax_j(gamma * (u_i . u_j - beta * mean(u . u)))   over the j where it is not negative

CLIP's values are resized to that grid, so patch embeddings lie on it too. On CLIP's own grid the
same map is a weights function, a term on scores, a part of other weights, or a repair of outliers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.repair import lof_mask
from sclip_lab.attention.similarity import above_mean, centred, similarity_weights
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import (
    block_edit,
    mix_function,
    prior_function,
    repair_function,
    uses,
    weights_function,
)
from sclip_lab.core.values import within
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context, State
from sclip_lab.network.scene import Grid

OutputGrid = Literal["guidance", "tokens"]


@uses("guidance")
@block_edit
def proxyclip(
    block: Block,
    state: State,
    ctx: Context,
    beta: float = 1.2,
    gamma: float = 3.0,
    output_grid: OutputGrid = "guidance",
    swap_axes: bool = False,
) -> State:
    """ProxyCLIP's block: the second network's map on CLIP's values, no residual, no MLP.

    The official code takes the mean over all windows of its batch, which has one window in its
    evaluation; here the mean is always the window's. The class token attends to itself.

    Args:
        beta: factor on each window's mean similarity; larger keeps fewer patches.
        gamma: > 0, inverse temperature.
        output_grid: grid of the patch embeddings: of the ``guidance``, or of the ``tokens``, to
            which the guidance is resized then.
        swap_axes: see `resized`; it changes nothing on square grids.

    Raises:
        LabError: no guidance, or patches on another grid than CLIP's in a block before the last.
    """
    weights, grid = guided_map(ctx, beta, gamma, output_grid)
    value = resized(patch_values(ctx), ctx.grid, grid, swap_axes)
    # Head by head: one product would copy the map for each head.
    one = weights.to(value)
    per_head = torch.stack([one @ of_head for of_head in value.unbind(1)], dim=1)
    return on_grid(block, state, ctx, per_head, grid, weights[:, None])


def guided_map(
    ctx: Context, beta: float, gamma: float, output_grid: OutputGrid
) -> tuple[Tensor, Grid]:
    """ProxyCLIP's map (batch, patches, patches) and its grid; arguments as in `proxyclip`.

    Raises:
        LabError: no guidance, or another grid than CLIP's in a block before the last.
    """
    features = ctx.guidance.features
    grid = (features.shape[-2], features.shape[-1]) if output_grid == "guidance" else ctx.grid
    if grid != ctx.grid and ctx.block.index != ctx.block.depth - 1:
        raise LabError(
            f"block {ctx.block.index} is not the last, and blocks after it need patches on "
            "CLIP's own grid: set output_grid=tokens"
        )
    return torch.softmax(above_mean(cosines(ctx, grid), beta, gamma), dim=-1), grid


def cosines(ctx: Context, grid: Grid) -> Tensor:
    """(batch, patches, patches) cosines of the second network's features on a grid."""
    unit = ctx.guidance.on(grid)
    return unit @ unit.mT


def patch_values(ctx: Context) -> Tensor:
    """(batch, heads, patches, head_dim): values without the class token's."""
    return ctx.value[:, :, ctx.block.prefix :]


def on_grid(
    block: Block,
    state: State,
    ctx: Context,
    per_head: Tensor,
    grid: Grid,
    attention: Tensor,
) -> State:
    """The state behind the projection of patches on ``grid``; the class token attends to itself.

    ``per_head`` is attention times values, (batch, heads, patches, head_dim), of patches on
    ``grid``; ``attention``, (batch, heads, patches, patches), is for diagnostics.
    """
    prefix = block.prefix
    joined = torch.cat([ctx.value[:, :, :prefix], per_head], dim=2)
    if prefix:
        attention = F.pad(attention, (prefix, 0, prefix, 0))
        attention[..., :prefix, :prefix] = torch.eye(prefix, device=attention.device)
    changed = None if grid == ctx.grid else grid
    return replace(state, tokens=block.merge(joined), attention=attention, grid=changed)


@uses("guidance")
@weights_function
def guided(ctx: Context, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """ProxyCLIP's map on CLIP's grid, as a weights function; arguments as in `proxyclip`.

    The variant's prior and class-token choice apply; the class token attends to itself.
    """
    return similarity_weights(ctx, cosines(ctx, ctx.grid), gamma, beta)


@uses("guidance")
@prior_function
def guidance_prior(ctx: Context, strength: float = 10.0, beta: float = 1.0) -> Tensor:
    """A term on scores: strength * (c - beta * mean c) between patches, 0 for the class token.

    ``strength`` is in units of the scores, ``beta`` a factor on a window's mean similarity. Returns
    (batch, 1, tokens, tokens).
    """
    term, prefix = centred(cosines(ctx, ctx.grid), beta, strength), ctx.block.prefix
    return F.pad(term, (prefix, 0, prefix, 0))[:, None]


@uses("guidance")
@mix_function
def guidance_mix(
    ctx: Context, weights: Tensor, share: float = 0.5, beta: float = 1.2, gamma: float = 3.0
) -> Tensor:
    """(1 - share) * weights + share * the second network's map, see `guided`; share is 0 .. 1."""
    within("share", share, 0, 1)
    return (1 - share) * weights + share * guided(ctx, beta, gamma).to(weights)


@uses("guidance")
@repair_function
def guidance_repair(
    context: Context,
    tokens: Tensor | None = None,
    neighbours: int = 30,
    quantile: float = 0.95,
    beta: float = 1.2,
    gamma: float = 3.0,
) -> Tensor:
    """Replace each outlier by a mean of clean patches that the second network finds similar.

    ``tokens``, ``neighbours`` and ``quantile`` are as in `sclip_lab.attention.repair.lof`, which
    finds the same outliers. ``beta`` and ``gamma`` are as in `proxyclip`, but the softmax runs over
    clean patches.
    """
    prefix = context.block.prefix
    outliers = lof_mask(context.tokens[:, prefix:], neighbours, quantile)
    tokens = context.tokens if tokens is None else tokens
    raw = centred(cosines(context, context.grid), beta, gamma)
    raw = raw.masked_fill(outliers[:, None], -torch.inf)
    # A patch that is like no clean patch takes the most similar one.
    raw = raw.masked_fill(raw < raw.amax(dim=-1, keepdim=True).clamp(max=0), -torch.inf)
    patches = tokens[:, prefix:]
    mean = torch.softmax(raw, dim=-1).to(patches) @ patches
    patches = torch.where(outliers[..., None], mean, patches)
    return torch.cat([tokens[:, :prefix], patches], dim=1)


def resized(per_head: Tensor, grid: Grid, target: Grid, swap_axes: bool = False) -> Tensor:
    """Patches on another grid, bilinear, corners not aligned.

    (batch, heads, patches, head_dim) on ``grid`` -> the same on ``target``. ``swap_axes`` reads the
    patches as if the grid were (grid_w, grid_h), as ProxyCLIP's code does with windows that are not
    square.
    """
    if grid == target and not swap_axes:
        return per_head
    read_as = grid[::-1] if swap_axes else grid
    maps = per_head.mT.unflatten(-1, read_as).flatten(0, 1)
    maps = F.interpolate(maps, target, mode="bilinear", align_corners=False)
    return maps.unflatten(0, per_head.shape[:2]).flatten(-2).mT
