"""Attention to neighbours only: what a spatial prior does on its own.

NACLIP: Hajimiri, Ben Ayed, Dolz, WACV 2025, arXiv 2404.08181, the ablation without similarity
("neighbourhood only"); SegEarth-OV, arXiv 2410.01768, has the same switch. Their Gaussians are
`prior.gaussian_norms`; any other prior goes as well.
"""

from __future__ import annotations

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context


@weights_function
def neighbours(ctx: Context) -> Weights:
    """softmax(prior), no scores: (batch, heads, tokens, tokens); uniform without a prior."""
    batch, tokens, _ = ctx.tokens.shape
    return ctx.softmax(ctx.tokens.new_zeros(batch, ctx.block.num_heads, tokens, tokens))
