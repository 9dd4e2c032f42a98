"""Attention to all patches of one's own class alike: what attention can do at best."""

from __future__ import annotations

import torch

from sclip_lab.attention.interventions.sides import Sides, around_patches
from sclip_lab.core.functions import uses, weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context


@uses("labels")
@weights_function
def oracle(ctx: Context, row_sum: float = 1.0) -> Weights:
    """Every patch attends alike to the patches of its class, one of unknown class to itself, and
    none to the class token.

    Args:
        row_sum: sum of the patches' rows, above 0.
    """
    within("row_sum", row_sum, 0, above=True)
    same = Sides.of(ctx).same
    itself = torch.eye(same.shape[-1], dtype=torch.bool, device=same.device)
    same = (same | (itself & ~same.any(-1, keepdim=True))).double()
    return around_patches(ctx, same / same.sum(-1, keepdim=True), row_sum)
