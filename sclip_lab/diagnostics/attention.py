"""What attention weights look like, whatever the labels.

All functions take weights among patches, (batch, heads, patches, patches) with rows that sum to 1
(see `patch_rows`), and return one number per window and head, (batch, heads). It is in 0 .. 1 if
the function states no other range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sclip_lab.network.scene import positions


def patch_rows(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention among patches alone, rows renormalised to 1.

    (..., tokens or patches, the same) -> (..., patches, patches) float32.
    """
    skip = attention.shape[-1] - grid[0] * grid[1]
    among = attention[..., skip:, skip:].float()
    return among / among.sum(dim=-1, keepdim=True).clamp_min(1e-12)


def attention_entropy(weights: Tensor) -> Tensor:
    """Mean over rows of -sum_j A_ij log A_ij / log(patches).

    0: every patch attends to one; 1: uniform. Low entropy was linked to unstable training by Zhai
    et al., ICML 2023, arXiv 2303.06296. NaN on a grid of a single patch.
    """
    entropy = -torch.xlogy(weights, weights).sum(-1).mean(-1)
    count = weights.shape[-1]
    return entropy / math.log(count) if count > 1 else torch.full_like(entropy, torch.nan)


def mean_attention_distance(weights: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Mean over rows of sum_j A_ij |p_i - p_j|, in pixels of the network's input.

    Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, appendix D.7. 0 or more; low is local.
    """
    position = positions(grid).float() * patch_size
    distance = torch.cdist(position, position).to(weights)
    return (weights * distance).sum(-1).mean(-1)


def spatial_invariance(weights: Tensor) -> Tensor:
    """Mean over i != k of cos(A_i, A_k), the rows of two different patches.

    1: every patch has the same map, as SCLIP (arXiv 2312.01597, section 3) says of CLIP's last
    block; 0: maps of different patches do not overlap. The definition is this laboratory's. NaN on
    a grid of a single patch.
    """
    return mean_cosine(weights)


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine over all pairs of different vectors: (..., count, dim) -> (...).

    From |sum of unit vectors|^2 = count + sum over pairs, without a table of pairs.
    """
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    count = unit.shape[-2]
    pairs = unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))
    return pairs / (count * (count - 1)) if count > 1 else torch.full_like(pairs, torch.nan)


def diagonal_mass(weights: Tensor) -> Tensor:
    """Mean attention of a patch to itself: 1 / patches when uniform, 1 for MaskCLIP."""
    return torch.diagonal(weights, dim1=-2, dim2=-1).mean(-1)


def self_argmax_rate(weights: Tensor) -> Tensor:
    """Share of patches that attend to no other patch more than to themselves.

    Correlative attention guarantees it only where projections have equal norms, so it is
    measured rather than assumed. A tie counts as a yes.
    """
    to_self = torch.diagonal(weights, dim1=-2, dim2=-1)
    return (to_self >= weights.amax(-1)).float().mean(-1)
