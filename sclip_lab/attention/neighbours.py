"""Attention to neighbours only: a spatial prior without scores.

NACLIP: Hajimiri, Ben Ayed, Dolz, WACV 2025, arXiv 2404.08181, the ablation without similarity
("neighbourhood only"). SegEarth-OV, arXiv 2410.01768, has the same switch. Their Gaussians are
`prior.gaussian_norms`; every other prior works too.
"""

from __future__ import annotations

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context


@weights_function
def neighbours(ctx: Context) -> Weights:
    """softmax(prior) without scores; uniform if there is no prior."""
    batch, tokens, _ = ctx.tokens.shape
    return ctx.softmax(ctx.tokens.new_zeros(batch, ctx.block.num_heads, tokens, tokens))
