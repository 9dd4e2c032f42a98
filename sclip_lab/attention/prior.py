"""Spatial priors: terms that are added to attention scores before the softmax.

A prior of ``grid`` is a fixed float32 (tokens, tokens) matrix. A prior of ``ctx`` depends on the
block's input, for example on query and key norms, and broadcasts to (batch, heads, tokens, tokens).
Row and column 0 belong to the class token; a network without one drops them from a prior of
``grid``. Every prior works with every weights function: ``attention/prior=gaussian``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sclip_lab.core.functions import prior_function, prior_of_grid
from sclip_lab.core.values import within
from sclip_lab.network.context import Context
from sclip_lab.network.scene import positions, squared_distances


def _with_class_token(patches: Tensor, fill: float) -> Tensor:
    return torch.nn.functional.pad(patches, (1, 0, 1, 0), value=fill)


@prior_of_grid
def gaussian(grid: tuple[int, int], sigma: float = 5.0) -> Tensor:
    """exp(-distance^2 / (2 sigma^2)) between patches, 0 for the class token.

    NACLIP: Hajimiri et al., WACV 2025, arXiv 2404.08181, eq. 6. ``sigma`` > 0 is in patches.
    """
    within("sigma", sigma, 0, above=True)
    squared = squared_distances(grid).double()
    return _with_class_token(torch.exp(-squared / (2 * sigma**2)), 0.0).float()


@prior_function
def gaussian_norms(
    ctx: Context,
    sigma: float = 1.0,
    norms: Literal["pairwise", "mean"] = "pairwise",
    pair: Sequence[str] = ("query", "key"),
) -> Tensor:
    """The Gaussian in units of the scores: |a_i| |b_j| / sqrt(head_dim) times `gaussian`.

    With ``pairwise`` norms no score exceeds that height, so the Gaussian is never lost beside large
    scores, as one of peak 1 is.

    Args:
        sigma: standard deviation in patches, > 0.
        norms: ``pairwise``: of each pair of tokens, as in SegEarth-OV's "gav" (arXiv 2410.01768,
            code); ``mean``: one number for each image, the mean over all heads and pairs, class
            token included, as in NACLIP's ablation without scores (arXiv 2404.08181).
        pair: the two projections a and b.

    Returns:
        (batch, heads or 1, tokens, tokens).
    """
    a, b = (ctx.input.projected(name).norm(dim=-1) for name in pair)
    if norms == "pairwise":
        height = a[..., :, None] * b[..., None, :]
    else:
        # The mean over all (i, j) of a product is the product of the means.
        height = (a.mean(-1) * b.mean(-1)).mean(-1)[:, None, None, None]
    return ctx.block.scale * height * ctx.block.among_tokens(gaussian(ctx.grid, sigma)).to(height)


@prior_of_grid
def window(grid: tuple[int, int], radius: int = 1) -> Tensor:
    """0 within a square of ``2 radius + 1`` patches around each patch, -inf outside.

    The class token is outside of every patch's window; its own row sees everything. Radius 0 leaves
    a patch only itself, which is MaskCLIP's attention.

    ``radius`` >= 0 is a Chebyshev distance in patches.
    """
    within("radius", radius, 0)
    position = positions(grid)
    distance = (position[:, None] - position[None]).abs().amax(-1)
    patches = torch.where(distance <= radius, 0.0, -torch.inf)
    bias = _with_class_token(patches, -torch.inf)
    bias[0] = 0.0
    return bias
