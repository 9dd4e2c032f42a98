"""How many directions a window's tokens use: one number per window, (batch,)."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the singular values, divided by their sum.

    RankMe: Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1, without its epsilon; after Roy and
    Vetterli, EUSIPCO 2007.

    Args:
        features: (batch, patches, dim), not centred.

    Returns:
        (batch,) in 1 .. min(patches, dim); NaN where all features are 0.
    """
    # Squares of singular values are eigenvalues of the smaller Gram matrix: quicker than an SVD.
    x = features.double()
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum(-1, keepdim=True)
    return torch.exp(-torch.xlogy(share, share).sum(-1)).float()


def rank_one_residual(tokens: Tensor) -> Tensor:
    """How far tokens are from all being one: |X - 1 x^T| / |X| with x their mean.

    Dong et al., ICML 2021, arXiv 2103.03404, section 2: pure attention loses it doubly
    exponentially with depth. The norm is theirs, sqrt(|.|_1 |.|_inf) with the largest column and
    row sum; x is the mean, the nearest in the Frobenius norm.

    Args:
        tokens: (batch, patches, dim).

    Returns:
        (batch,), 0 or more: 0 when all tokens are equal; NaN where all are 0.
    """
    tokens = tokens.double()
    rest = tokens - tokens.mean(-2, keepdim=True)
    return (_composite_norm(rest) / _composite_norm(tokens)).float()


def _composite_norm(matrix: Tensor) -> Tensor:
    sizes = matrix.abs()
    return (sizes.sum(-2).amax(-1) * sizes.sum(-1).amax(-1)).sqrt()
