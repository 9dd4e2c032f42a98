"""RADSeg's self-correlating recursive attention (SCRA), on CLIP.

RADSeg, arXiv 2511.19704. The output of ordinary attention shows which tokens belong together, head
by head. Its similarities are the attention of a second look at the same values:

    y = out_proj(A_qk v),  B_h = softmax_j(t cos(y_ih, y_jh)) over the j where it is not negative

The global half of the paper (SCGA) works on finished features: `readouts.radseg.scga`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.functions import weights_function
from sclip_lab.core.values import within
from sclip_lab.network.context import Context


@weights_function
def scra(ctx: Context, scaling: float = 10.0) -> Tensor:
    """B of the module's formula among all tokens; rows sum to 1. A prior acts on both looks.

    Args:
        scaling: t > 0, factor on the cosines.
    """
    within("scaling", scaling, 0, above=True)
    first = ctx.block.output(ctx.attention(), ctx.value)
    unit = F.normalize(ctx.block.heads(first).float(), dim=-1)
    raw = scaling * unit @ unit.mT
    # A token's cosine with itself is 1, so no row is left empty.
    return ctx.softmax(raw.masked_fill(raw < 0, -torch.inf))
