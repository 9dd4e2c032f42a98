"""Mix an attention map with those of middle blocks: ``attention/mix=middle``.

A mix is applied to the result of a variant's weights function.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sclip_lab.attention.correlative import combined
from sclip_lab.core.functions import mix_function
from sclip_lab.core.values import within
from sclip_lab.network.context import Context
from sclip_lab.network.depth import Layer, resolve_all


@mix_function
def middle(
    ctx: Context,
    weights: Tensor,
    layers: Sequence[Layer] = ("6/12", "7/12", "8/12", "9/12"),
    pairs: Sequence[Sequence[str]] = (("query", "key"),),
    share: float = 0.3,
    gain: float = 1.0,
) -> Tensor:
    """gain * ((1 - share) * weights + share * mean over layers of the sum over pairs).

    ResCLIP's residual cross-correlation (arXiv 2411.15851, eq. 7) has pairs [[query, key]]; ITACLIP
    (arXiv 2411.12044, eq. 5) mixes halves of CSA maps: pairs [[query, query], [key, key]].

    Args:
        weights: (batch, heads, tokens, tokens) of the weights function.
        layers: earlier blocks whose maps are averaged.
        pairs: projections whose scores make an earlier block's map; several are added.
        share: share of the middle blocks, 0 .. 1.
        gain: factor on the result.
    """
    within("share", share, 0, 1)
    maps = [
        combined([ctx.earlier(layer).attention(a, b) for a, b in pairs], "sum")
        for layer in resolve_all(list(layers), ctx.block.depth)
    ]
    return gain * ((1 - share) * weights + share * combined(maps, "mean"))
