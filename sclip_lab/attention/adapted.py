"""FSA, feedback self-adaptive attention: the class distributions of a map's output change the map.

arXiv 2508.20265. With A a map between patches, v its values and T the texts:

    p = softmax over texts of (20 cos(O(A v), T) - 35 cos(O(mean v), T))
    s_ij = 1 / (1 + KL(p_i | p_j)); a row's largest s are kept, up to a share of their softmax
    B = softmax over the kept of s exp(lambda s);  E = (B A + A B + B) / 3
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sclip_lab.attention.guided import OutputGrid, guided_map, on_grid, patch_values, resized
from sclip_lab.core.functions import block_edit, mix_function, uses
from sclip_lab.core.values import within
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context, State

EPSILON = 1e-10  # in the logarithm of probabilities, which may be 0


@uses("text")
@mix_function
def adapted(
    ctx: Context,
    weights: Tensor,
    scale: float = 20.0,
    uniform_scale: float = 35.0,
    share: float = 0.45,
    sharpness: float = 3.0,
) -> Tensor:
    """E of the module's formula, a ``mix`` for variants whose patches ignore the class token.

    The class token's row stays, and no patch attends to it.

    Args:
        weights: (batch, heads, tokens, tokens) of the weights function; between patches it is A.
        scale, uniform_scale: the factors 20 and 35 in the formula of p.
        share: share of the softmax of a row's similarities that is kept, 0 .. 1.
        sharpness: lambda.
    """
    prefix = ctx.block.prefix
    value, text = ctx.value[:, :, prefix:], ctx.text.targets
    between = weights[:, :, prefix:, prefix:]
    distributions = class_distributions(
        between, value, ctx.block, ctx.head, text, scale, uniform_scale
    )
    result = weights.clone()
    result[:, :, prefix:, :prefix] = 0
    new = agreement(distributions, share, sharpness)[:, None].to(between)
    result[:, :, prefix:, prefix:] = self_adapted(between, new)
    return result


def class_distributions(
    attention: Tensor,
    value: Tensor,
    block: Block,
    head: Callable[[Tensor], Tensor],
    text: Tensor,
    scale: float = 20.0,
    uniform_scale: float = 35.0,
) -> Tensor:
    """p of the module's formula: (batch, patches, texts) float64; the scales as in `adapted`.

    ``attention`` is (batch, heads or 1, patches, patches), ``value`` (batch, heads, patches,
    head_dim), ``text`` (texts, embed_dim) with unit rows. ``block`` has the output projection, and
    ``head`` brings tokens into the space of texts.
    """

    def cosines(tokens: Tensor) -> Tensor:
        features = head(tokens).float()
        return features / features.norm(dim=-1, keepdim=True) @ text.to(features).T

    of_map = scale * cosines(block.output(attention, value))
    uniform = uniform_scale * cosines(block.merge(value.mean(dim=2, keepdim=True)))
    # Similar patches differ by less than the rounding of a row's sum in fp32, and rounding would
    # decide which of them a row keeps.
    return torch.softmax((of_map - uniform).double(), dim=-1)


def agreement(distributions: Tensor, share: float = 0.45, sharpness: float = 3.0) -> Tensor:
    """B of the module's formula: (batch, patches, texts) -> (batch, patches, patches) float64.

    ``distributions`` are p. Rows of B sum to 1; share and sharpness are as in `adapted`.
    """
    within("share", share, 0, 1)
    distributions = distributions.double()
    logs = torch.log(distributions + EPSILON)
    self_term = (distributions * logs).sum(-1, keepdim=True)
    divergence = (self_term - distributions @ logs.mT).clamp_min(0)
    similar = 1 / (1 + divergence)
    ordered, index = similar.sort(dim=-1, descending=True, stable=True)
    within_share = torch.softmax(ordered, dim=-1).cumsum(-1) <= share
    within_share[..., 0] = True  # every row keeps its largest
    raw = (ordered * torch.exp(sharpness * ordered)).masked_fill(~within_share, -torch.inf)
    return torch.zeros_like(similar).scatter(-1, index, torch.softmax(raw, dim=-1))


def self_adapted(attention: Tensor, agreed: Tensor) -> Tensor:
    """E = (B A + A B + B) / 3 of (batch, heads or 1, patches, patches) maps."""
    return (agreed @ attention + attention @ agreed + agreed) / 3


@uses("guidance", "text")
@block_edit
def adapted_proxy(
    block: Block,
    state: State,
    ctx: Context,
    beta: float = 1.2,
    gamma: float = 3.0,
    output_grid: OutputGrid = "guidance",
    scale: float = 20.0,
    uniform_scale: float = 35.0,
    share: float = 0.45,
    sharpness: float = 3.0,
) -> State:
    """The block of the published FSA: E of the module's formula, with a second network's map as A.

    It has no residual and no MLP. The class token attends to itself.

    Args:
        beta, gamma, output_grid: of `sclip_lab.attention.guided.proxyclip`, whose map is A.
        scale, uniform_scale, share, sharpness: of `adapted`.

    Raises:
        LabError: no guidance, or patches on another grid than CLIP's in a block before the last.
    """
    base, grid = guided_map(ctx, beta, gamma, output_grid)
    base, value = base[:, None], resized(patch_values(ctx), ctx.grid, grid)
    distributions = class_distributions(
        base.to(value), value, block, ctx.head, ctx.text.targets, scale, uniform_scale
    )
    new = agreement(distributions, share, sharpness)[:, None].to(base)
    attention = self_adapted(base, new)
    return on_grid(block, state, ctx, attention.to(value) @ value, grid, attention)
