"""Attention of an earlier block, used in a later one.

"Early-layer attention" is an alternative that SCLIP, arXiv 2312.01597, compares with in its
ablation: early blocks attend more locally than the last one.
"""

from __future__ import annotations

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context
from sclip_lab.network.depth import Layer


@weights_function
def early(ctx: Context, source: Layer = "3/12") -> Weights:
    """softmax(q k^T / sqrt(head_dim)) of block ``source``.

    Args:
        ctx: the block as the variant sees it.
        source: an earlier block, as 0-based index, negative index or fraction of depth; the
            default is the third of twelve.

    Returns:
        (batch, heads, tokens, tokens); rows sum to 1.
    """
    return ctx.at(source).attention()
