"""PEARL attention: keys of each head rotated onto its queries before they are compared.

arXiv 2603.21528, CVPR 2026, "Procrustes alignment". Per head, with means weighted by query norms,
M = k_c^T q_c of centred keys and queries, and R the rotation nearest to M (its polar factor):

    A = softmax(s q (k R)^T + share * s k_c k_c^T),  s = 1 / sqrt(head_dim)

The release computes R by five Newton-Schulz rounds, which are far from converged: the singular
values spread down to 1e-4, so R is no rotation. Published numbers belong to the five rounds; more
rounds, or the exact factor, are another method.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.core.functions import weights_function
from sclip_lab.core.values import within
from sclip_lab.network.context import Context

EPSILON = 1e-6  # keeps sums of norms and the root of the Gram matrix away from 0


@weights_function
def pearl(ctx: Context, rounds: int | None = 5, key_share: float = 0.08) -> Tensor:
    """softmax(s q (k R)^T + key_share * s k_c k_c^T); rows sum to 1.

    Args:
        rounds: Newton-Schulz rounds for R, 1 or more; None: the exact polar factor.
        key_share: factor on the centred keys' self-similarity; 0 leaves it out.
    """
    if rounds is not None:
        within("rounds", rounds, 1)
    query, key = ctx.query.float(), ctx.key.float()
    weight = query.norm(dim=-1, keepdim=True)
    # The class token takes part in everything but the means.
    weight[:, :, : ctx.block.prefix] = 0
    weight = weight / (weight.sum(dim=2, keepdim=True) + EPSILON)
    centred_query = query - (weight * query).sum(dim=2, keepdim=True)
    centred_key = key - (weight * key).sum(dim=2, keepdim=True)
    rotation = polar_factor(centred_key.mT @ centred_query, rounds)
    raw = ctx.scores(query, key @ rotation)
    if key_share:
        raw = raw + key_share * ctx.scores(centred_key, centred_key)
    return ctx.softmax(raw)


def polar_factor(matrix: Tensor, rounds: int | None = None) -> Tensor:
    """The orthogonal matrix nearest to ``matrix``, (..., n, n).

    ``rounds`` of the coupled Newton-Schulz iteration for (M^T M)^(-1/2) approximate it; None takes
    U V^T of the singular value decomposition.
    """
    if rounds is None:
        u, _, v_transposed = torch.linalg.svd(matrix)
        return u @ v_transposed
    gram = matrix.mT @ matrix
    size = torch.linalg.matrix_norm(gram)[..., None, None].clamp_min(EPSILON)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root, inverse = gram / size + EPSILON * one, one.expand_as(gram)
    for _ in range(rounds):
        step = (3 * one - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return matrix @ inverse / size.sqrt()
