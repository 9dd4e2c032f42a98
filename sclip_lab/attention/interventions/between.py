"""Move one map towards another, with a separate parameter for the sum of the rows."""

from __future__ import annotations

from sclip_lab.attention.variant import Map
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context


@weights_function
def between(
    ctx: Context, a: Map, b: Map, share: float = 0.5, row_sum: float | Map = 1.0
) -> Weights:
    """row_sum * ((1 - share) A_a + share A_b), both scaled to rows that sum to 1.

    CSA adds two softmaxes, so that its rows sum to 2 beside the kept residual: another sum is
    another weight of attention against the residual. No ground truth is read.

    Args:
        a, b: maps of two variants.
        share: share of b, 0 .. 1.
        row_sum: above 0, or a variant whose map has the sums.
    """
    within("share", share, 0, 1)
    if not callable(row_sum):
        within("row_sum", row_sum, 0, above=True)
    one, two = (weights / weights.sum(-1, keepdim=True) for weights in (a(ctx), b(ctx)))
    total = row_sum(ctx).sum(-1, keepdim=True) if callable(row_sum) else row_sum
    return total * ((1 - share) * one + share * two)
