"""Attention that does not look: controls that a diagnostic has to tell from a good map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sclip_lab.attention.interventions.sides import around_patches
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import LARGEST_SEED, within
from sclip_lab.network.context import Context, Grid
from sclip_lab.network.scene import squared_distances

Kind = Literal["gaussian", "partner", "uniform"]


@weights_function
def blind(
    ctx: Context, kind: Kind = "gaussian", sigma: float = 0.5, row_sum: float = 1.0, seed: int = 0
) -> Weights:
    """A map of the grid alone; no patch attends to the class token. No ground truth is read.

    Args:
        kind: ``gaussian``: proportional to exp(-distance^2 / (2 sigma^2)); ``partner``: each patch
            attends to one other, drawn at random; ``uniform``: each attends to all alike.
        sigma: in patches, above 0.
        row_sum: sum of the patches' rows, above 0.
        seed: from which partners are drawn, 0 or more.
    """
    within("sigma", sigma, 0, above=True)
    within("row_sum", row_sum, 0, above=True)
    within("seed", seed, 0, LARGEST_SEED)
    return around_patches(ctx, _map(kind, ctx.grid, sigma, seed)[None, None], row_sum)


def _map(kind: Kind, grid: Grid, sigma: float, seed: int) -> Tensor:
    """(patches, patches) float64; rows sum to 1."""
    count = grid[0] * grid[1]
    if kind == "gaussian":
        return torch.softmax(squared_distances(grid).double() / (-2 * sigma**2), dim=-1)
    if kind == "uniform":
        return torch.full((count, count), 1 / count, dtype=torch.float64)
    # One cycle through all patches, so that no patch is its own partner.
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(1)
    return torch.nn.functional.one_hot(partner, count).double()
