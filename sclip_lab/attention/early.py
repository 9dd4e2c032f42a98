"""Attention of an earlier block, used in a later one.

SCLIP, arXiv 2312.01597, compares with "early-layer attention" in its ablation: early blocks attend
more locally than the last one.
"""

from __future__ import annotations

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context
from sclip_lab.network.depth import Layer


@weights_function
def early(ctx: Context, source: Layer = "3/12") -> Weights:
    """softmax(q k^T / sqrt(head_dim)) of block ``source``; rows sum to 1.

    Args:
        source: an earlier block, as 0-based index, negative index or fraction of depth; the default
            is the third of twelve.
    """
    return ctx.at(source).attention()
