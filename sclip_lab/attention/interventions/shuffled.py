"""Permute a row's weights among places that have one thing in common, to see what else counts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sclip_lab.attention.interventions.sides import Sides, patches_of, with_patches
from sclip_lab.attention.variant import Map
from sclip_lab.core.functions import uses, weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import LARGEST_SEED
from sclip_lab.core.values import within as in_range
from sclip_lab.network.context import Context
from sclip_lab.network.scene import squared_distances

Within = Literal["class", "distance", "window"]


@uses("labels", when={"within": "class"})
@weights_function
def shuffled(ctx: Context, base: Map, within: Within = "class", seed: int = 0) -> Weights:
    """The weights of each row in another order.

    Each row has its own permutation, drawn from the seed and the grid alone, so that it does not
    depend on the photos of a batch.

    Args:
        base: the map of a variant.
        within: among which places weights are permuted: those of one side of the row (``class``;
            mass on other classes and entropy of either side stay), those of equal distance to the
            row's patch (``distance``; locality stays), or all patches of the ``window``. Only
            ``class`` reads ground truth.
        seed: 0 or more.
    """
    in_range("seed", seed, 0, LARGEST_SEED)
    weights = base(ctx)
    patches = patches_of(ctx, weights)
    if within == "class":
        sides = Sides.of(ctx)
        group = sides.same.long() + 2 * sides.other.long()
        # Places of unknown class stay where they are: each is a group of its own.
        alone = torch.arange(3, 3 + patches.shape[-1], device=group.device)
        group = torch.where(group == 0, alone, group)
    elif within == "distance":
        group = squared_distances(ctx.grid).to(patches.device)[None, None]
    else:
        group = torch.zeros_like(patches[:1, :1], dtype=torch.long)
    order = torch.rand(patches.shape[1:], generator=torch.Generator().manual_seed(seed))
    return with_patches(ctx, weights, permuted(patches, group, order.to(patches.device)))


def permuted(patches: Tensor, group: Tensor, order: Tensor) -> Tensor:
    """Each row's weights (windows, heads, patches, patches) permuted among places of one group.

    ``group`` and ``order`` broadcast to the weights. Within each group the permutation sorts the
    numbers of ``order``, in 0 .. 1.
    """
    group = group.expand(patches.shape)
    places = group.argsort(dim=-1, stable=True)
    # An order of 1 would put a place into the next group.
    sources = (group.double() + order.double().clamp(max=1 - 1e-9)).argsort(dim=-1)
    return torch.empty_like(patches).scatter(-1, places, patches.gather(-1, sources))
