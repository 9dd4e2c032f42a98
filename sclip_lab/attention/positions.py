"""Where the patches of a window lie."""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.network.context import Grid


def positions(grid: Grid) -> Tensor:
    """(patches, 2) int64 row and column of each patch, row-major."""
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))


def squared_distances(grid: Grid) -> Tensor:
    """(patches, patches) int64 squared distances, in patches."""
    position = positions(grid)
    return (position[:, None] - position[None]).square().sum(-1)
