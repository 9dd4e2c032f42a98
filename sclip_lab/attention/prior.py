"""Spatial priors: (tokens, tokens) terms added to attention scores before the softmax.

Each takes the patch grid and returns a float32 matrix whose row and column 0 belong to the class
token. Any of them goes with any weights function: ``+attention/prior=gaussian``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.errors import LabError


def _positions(grid: tuple[int, int]) -> Tensor:
    """(patches, 2) row and column of each patch, row-major."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([rows.flatten(), columns.flatten()], dim=1)


def _with_class_token(patches: Tensor, fill: float) -> Tensor:
    return torch.nn.functional.pad(patches, (1, 0, 1, 0), value=fill)


def gaussian(grid: tuple[int, int], sigma: float = 5.0) -> Tensor:
    """exp(-distance^2 / (2 sigma^2)) between patches, 0 for the class token.

    NACLIP: Hajimiri et al., WACV 2025, arXiv 2404.08181, eq. 6.

    Args:
        grid: (grid_h, grid_w).
        sigma: standard deviation in patches, > 0.
    """
    if sigma <= 0:
        raise LabError(f"sigma {sigma} must be above 0")
    position = _positions(grid).double()
    squared = (position[:, None] - position[None]).square().sum(-1)
    return _with_class_token(torch.exp(-squared / (2 * sigma**2)), 0.0).float()


def window(grid: tuple[int, int], radius: int = 1) -> Tensor:
    """0 within a square of ``2 radius + 1`` patches around each patch, -inf outside.

    The class token is outside every patch's window; its own row sees everything. Radius 0 leaves
    a patch nothing but itself, which is MaskCLIP's attention.

    Args:
        grid: (grid_h, grid_w).
        radius: in patches, >= 0 (Chebyshev distance).
    """
    if radius < 0:
        raise LabError(f"radius {radius} must be 0 or more")
    position = _positions(grid)
    distance = (position[:, None] - position[None]).abs().amax(-1)
    patches = torch.where(distance <= radius, 0.0, -torch.inf)
    bias = _with_class_token(patches, -torch.inf)
    bias[0] = 0.0
    return bias
