"""Cosine similarities of patch tokens, as attention weights and as weights of averages.

Middle layers of CLIP know better than the last attention which patches belong together. SC-CLIP,
Bai et al., arXiv 2411.15869; the masked softmax is that of ProxyCLIP, Lan et al., arXiv 2408.04883,
which takes its similarities from another network.

Shapes: ``patches`` = grid_h * grid_w; ``tokens`` = class token, if there is one, + patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.correlative import combined
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context
from sclip_lab.network.depth import Layer


def cosine(tokens: Tensor, prefix: int = 1) -> Tensor:
    """Cosine similarities of the patches: (batch, tokens, width) -> (batch, patches, patches).

    The first ``prefix`` tokens are no patches.
    """
    unit = F.normalize(tokens[:, prefix:].float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def cut_below(similarities: Tensor, cut: float) -> Tensor:
    """Similarities below ``cut`` set to 0, same shape."""
    return similarities.masked_fill(similarities < cut, 0.0)


def averaged(tokens: Tensor, similarities: Tensor) -> Tensor:
    """Replace each patch by the mean of all patches, weighted by similarities. Other tokens stay.

    (batch, tokens, width) and similarities (batch, patches, patches) of 0 or more -> the shape of
    ``tokens``.
    """
    rows = similarities / (similarities.sum(-1, keepdim=True) + 1e-6)
    prefix = tokens.shape[1] - similarities.shape[-1]
    return torch.cat([tokens[:, :prefix], rows.to(tokens.dtype) @ tokens[:, prefix:]], dim=1)


def centred(similarities: Tensor, beta: float, sharpness: float) -> Tensor:
    """sharpness * (c - beta * mean c) of (batch, patches, patches), mean over all pairs."""
    return sharpness * (similarities - beta * similarities.mean((1, 2), keepdim=True))


def above_mean(similarities: Tensor, beta: float, sharpness: float) -> Tensor:
    """`centred`, with -inf where it is negative: scores for a softmax over similar patches."""
    scores = centred(similarities, beta, sharpness)
    # A patch may always attend to itself; otherwise a flat image could leave an empty row.
    diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~diagonal, -torch.inf)


def similarity_weights(
    ctx: Context, similarities: Tensor, sharpness: float = 3.0, beta: float = 1.0
) -> Tensor:
    """softmax(sharpness * (c - beta * mean c)) over the patches where that is not negative.

    The variant's prior and class-token choice apply. The class token attends to itself and no patch
    attends to it.

    ``similarities`` are c, (batch, patches, patches). ``beta`` is a factor on the mean over all
    pairs of an image, 1 in SC-CLIP, 1.2 in ProxyCLIP. Returns (batch, heads, tokens, tokens), equal
    for all heads; rows sum to 1.
    """
    prefix = ctx.block.prefix
    raw = above_mean(similarities, beta, sharpness)
    raw = F.pad(raw, (prefix, 0, prefix, 0), value=-torch.inf)
    raw[:, :prefix, :prefix] = 0.0  # otherwise the class token's row would be empty
    weights = ctx.softmax(raw[:, None].to(ctx.tokens.dtype))
    return weights.expand(-1, ctx.block.num_heads, -1, -1)


def with_similarity(
    ctx: Context,
    similarities: Tensor,
    projections: Sequence[str],
    sharpness: float,
) -> Tensor:
    """Mean of `similarity_weights` and of softmax(r r^T / sqrt(head_dim)) for each projection r.

    (batch, heads, tokens, tokens); rows sum to 1. ``similarities`` are (batch, patches, patches).
    Without ``projections`` the result is `similarity_weights`.
    """
    near = similarity_weights(ctx, similarities, sharpness)
    return combined([near, *(ctx.attention(r, r) for r in projections)], "mean")


@weights_function
def similarity(
    ctx: Context,
    source: Layer = "9/12",
    projections: Sequence[str] = ("key",),
    sharpness: float = 3.0,
    cut: float | None = None,
) -> Weights:
    """SC-CLIP's attention alone: the mean of middle similarities and CSA maps; rows sum to 1.

    Args:
        source: the earlier block whose output is compared.
        projections: whose softmax(r r^T / sqrt(head_dim)) is averaged in; may be empty.
        sharpness: > 0, inverse temperature of the similarities.
        cut: similarities below it become 0 before they are centred; None: no cut.
    """
    similarities = cosine(ctx.after(source), ctx.block.prefix)
    if cut is not None:
        similarities = cut_below(similarities, cut)
    return with_similarity(ctx, similarities, projections, sharpness)
