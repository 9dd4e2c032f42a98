"""Attention to oneself only: the value projection as a dense feature.

MaskCLIP: Zhou, Loy, Dai, ECCV 2022, arXiv 2112.01071, section 3.3. The original keeps residual and
MLP; SCLIP calls it a local window of one patch.
"""

from __future__ import annotations

import torch

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context


@weights_function
def identity(ctx: Context) -> Weights:
    """The identity matrix for every head: (batch, heads, tokens, tokens)."""
    batch, tokens, _ = ctx.tokens.shape
    eye = torch.eye(tokens, dtype=ctx.tokens.dtype, device=ctx.tokens.device)
    return eye.expand(batch, ctx.block.num_heads, tokens, tokens)
