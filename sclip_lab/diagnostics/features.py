"""What patch embeddings look like, whatever the labels.

All functions take (batch, patches, dim) and return one number per window, (batch,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.diagnostics.attention import mean_cosine

# Norm above which a token is an outlier: this laboratory's choice for ViT-B and ViT-L.
HIGH_NORM = 75.0


def class_similarity(features: Tensor, class_embedding: Tensor) -> Tensor:
    """Mean cosine of patch embeddings with the class embedding.

    High: patches say what the whole window says. CLIPtrase (arXiv 2407.08268) and SegEarth-OV
    (arXiv 2410.01768) subtract that share. In -1 .. 1; ``class_embedding`` is (batch, dim).
    """
    return F.cosine_similarity(features, class_embedding[:, None].to(features), dim=-1).mean(-1)


def feature_invariance(features: Tensor) -> Tensor:
    """Mean cosine of the embeddings of different patches; 1: the window has one feature.

    In -1 .. 1; NaN on a grid of a single patch.
    """
    return mean_cosine(features)


def outlier_fraction(features: Tensor) -> Tensor:
    """Share of patches whose norm exceeds median + 3 MAD, in 0 .. 0.5.

    MAD is the median absolute deviation from the median, not scaled to a standard deviation.
    High-norm tokens without local content: Darcet et al., ICLR 2024, arXiv 2309.16588.
    """
    norms = features.float().norm(dim=-1)
    median = norms.quantile(0.5, dim=-1, keepdim=True)
    spread = (norms - median).abs().quantile(0.5, dim=-1, keepdim=True)
    return (norms > median + 3 * spread).float().mean(-1)


def high_norm_rate(tokens: Tensor) -> Tensor:
    """Share of tokens whose norm exceeds `HIGH_NORM`, in the stream's own units.

    Darcet et al., ICLR 2024, arXiv 2309.16588, call tokens outliers if their norm is above a fixed
    value, which they choose for each network. Variants of one network can be compared by this
    share, but not by `outlier_fraction`, whose threshold moves with the median.
    """
    return (tokens.float().norm(dim=-1) > HIGH_NORM).float().mean(-1)


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same patches.

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of columns with mean 0: Kornblith et al., ICML 2019, arXiv
    1905.00414, eq. 6. (..., samples, dim_x) and (..., samples, dim_y) -> (...) in 0 .. 1; 1: equal
    up to rotation, scale and shift; NaN where one of them is constant.
    """
    x, y = (z.double() - z.double().mean(-2, keepdim=True) for z in (x, y))
    cross, of_x, of_y = (torch.linalg.matrix_norm(a.mT @ b) for a, b in ((y, x), (x, x), (y, y)))
    return cross.square() / (of_x * of_y)


def residual_ratio(residual: Tensor, output: Tensor) -> Tensor:
    """Mean over tokens of |x| / |O(A)|, the residual branch against the attention's output.

    ClearCLIP (arXiv 2407.12442, section 3.2) argues from it that the residual drowns attention
    in the last block, in ViT-L most. High: attention hardly counts. ``residual`` is what enters the
    block, ``output`` the attention's output behind the output projection; all tokens count.
    """
    return (residual.float().norm(dim=-1) / output.float().norm(dim=-1)).mean(-1)


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of p, the singular values divided by their sum.

    RankMe: Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1, without its epsilon; after Roy and
    Vetterli, EUSIPCO 2007. Features are not centred. In 1 .. min(patches, dim); NaN where all
    features are 0.
    """
    # Squares of singular values are eigenvalues of the smaller Gram matrix: quicker than an SVD.
    x = features.double()
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum(-1, keepdim=True)
    return torch.exp(-torch.xlogy(share, share).sum(-1)).float()


def rank_one_residual(tokens: Tensor) -> Tensor:
    """How far tokens X are from being all equal: |X - 1 x^T| / |X|, with x the mean token.

    Dong et al., ICML 2021, arXiv 2103.03404, section 2: in pure attention it falls doubly
    exponentially with depth. The norm is that paper's, sqrt(|.|_1 |.|_inf) with the largest column
    and row sum; the mean x is nearest to the tokens in the Frobenius norm. 0 or more: 0 when all
    tokens are equal; NaN where all are 0.
    """
    tokens = tokens.double()
    rest = tokens - tokens.mean(-2, keepdim=True)
    return (_composite_norm(rest) / _composite_norm(tokens)).float()


def _composite_norm(matrix: Tensor) -> Tensor:
    sizes = matrix.abs()
    return (sizes.sum(-2).amax(-1) * sizes.sum(-1).amax(-1)).sqrt()
