"""A map whose four parts come from four maps: what of CSA's gain is due to which?"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.attention.interventions.entropy import relative_entropy, with_entropy
from sclip_lab.attention.interventions.set_mass import with_share
from sclip_lab.attention.interventions.sides import Sides, patches_of, with_patches
from sclip_lab.attention.variant import Map
from sclip_lab.core.functions import uses, weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context


@uses("labels")
@weights_function
def composed(ctx: Context, place: Map, sharpness: Map, mass: Map, weight: Map) -> Weights:
    """``place`` with the sharpness, the mass on other classes and the row sums of other maps.

    With one map for all four the result is that map.

    Args:
        place: the map that says which patches weigh more within either side, and which shares the
            class token and patches of unknown class have.
        sharpness: the map with the entropy within either side, see `entropy`.
        mass: the map with the share of other classes in each row, see `set_mass`.
        weight: the map with the sum of each row.
    """
    weights = place(ctx)
    if sharpness != place:
        weights = with_patches(ctx, weights, _sharpened(ctx, place, sharpness))
    if mass != place:
        patches, sides = patches_of(ctx, weights), Sides.of(ctx)
        share, target = sides.share(patches), sides.share(patches_of(ctx, mass(ctx)))
        patches = with_share(patches, sides, torch.where(target.isnan(), share, target))
        weights = with_patches(ctx, weights, patches)
    if weight != place:
        weights = weights * weight(ctx).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    return weights


def _sharpened(ctx: Context, place: Map, sharpness: Map) -> Tensor:
    """Weights between patches of ``place`` with the entropies of ``sharpness``, computed once for
    all variants on one input that combine the two maps."""

    def compute() -> Tensor:
        patches, like = (patches_of(ctx, base(ctx)) for base in (place, sharpness))
        sides = Sides.of(ctx)
        for side in (sides.same, sides.other):
            patches = with_entropy(patches, side, relative_entropy(like, side))
        return patches

    # With feedback, a closed class token or texts, the maps are not the same for all variants.
    differs = ctx.feedback is not None or not ctx.class_token
    if differs or "text" in place.variant.uses | sharpness.variant.uses:
        return compute()
    return ctx.input.once(("sharpened", place, sharpness), compute)
