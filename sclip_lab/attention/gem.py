"""GEM: self-self attention of all three projections, sharpened by its own iteration.

Bousselham et al., CVPR 2024, arXiv 2312.00878. For z in {v, k, q}, per head and with unit rows,
z <- softmax(b z z^T) z some times, then A_z = softmax(b z z^T); the weights are the mean of A_v,
A_k and A_q. The method runs the last blocks as a parallel stream without MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.correlative import Combine, combined
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context


@weights_function
def gem(
    ctx: Context,
    projections: Sequence[str] = ("value", "key", "query"),
    iterations: int = 1,
    inverse_temperature: float | None = None,
    combine: Combine = "mean",
) -> Weights:
    """Mean over projections of the iterated, normalised self-self attention; rows sum to 1.

    Args:
        projections: as in `correlative`.
        iterations: how often z <- softmax(b z z^T) z is applied, 0 or more.
        inverse_temperature: b > 0; None: mean norm of the image's tokens behind LN1, divided by
            sqrt(head_dim).
        combine: ``mean``; or ``sum``, whose rows sum to the number of projections.
    """
    within("iterations", iterations, 0)
    if inverse_temperature is not None:
        within("inverse_temperature", inverse_temperature, 0, above=True)

    def iterated(name: str) -> Tensor:
        z = F.normalize(ctx.input.projected(name), dim=-1)
        for _ in range(iterations):
            z = F.normalize(_self_self(ctx, z, inverse_temperature) @ z, dim=-1)
        return _self_self(ctx, z, inverse_temperature)

    return combined(map(iterated, projections), combine)


def _self_self(ctx: Context, z: Tensor, inverse_temperature: float | None) -> Tensor:
    """softmax(b z z^T) with unit rows z: (batch, heads, tokens, tokens)."""
    factor: float | Tensor | None = inverse_temperature
    if factor is None:
        factor = (ctx.input.normed.norm(dim=-1).mean(1) * ctx.block.scale)[:, None, None, None]
    return ctx.softmax(factor * (z @ z.transpose(-2, -1)))
