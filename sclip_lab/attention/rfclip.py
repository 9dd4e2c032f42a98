"""RF-CLIP: distracting patches smoothed after every block; one map, the mean over all blocks.

Li et al., "Rectify and focus", AAAI 2026, arXiv 2511.16170, as released: without the refocusing of
attention, which `refocus_threshold` switches on. With Rp a repair, x_l the stream that Rp repaired
behind block l of twelve, K_l = softmax(s k k^T) of block l, g the mean of x_1 .. x_12, and c the
cosines between g's patches, 0 below a cut:

    A(u) = mean of K_1 .. K_11 and K_12(u);  o(u) = out_proj(A(u) v(u)) between patches
    patches = (o(c x_11) + o(c g)) / 2, without residual and MLP

Rp: a channel's share of a patch is its value less the patch's smallest value, divided by the sum of
all such differences. A patch is distracting if one of the chosen channels has a share above
sigma / width. It becomes keep * itself + (1 - keep) * the mean of the 3 x 3 patches around it;
patches beyond the border are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.similarity import cosine, cut_below
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import block_edit
from sclip_lab.core.values import within
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput, Context, Grid, State

CHANNELS = (4, 162, 189, 326, 429, 474, 633, 713)  # released for a network 768 wide, ViT-B/16


@block_edit
def rfclip(
    block: Block,
    state: State,
    ctx: Context,
    channels: Sequence[int] = CHANNELS,
    of_width: int | None = 768,
    sigma: float = 5.0,
    keep: float = 0.6,
    cut: float = 0.4,
    refocus_threshold: float | None = None,
    refocus_share: float = 0.6,
) -> State:
    """One block of RF-CLIP, for ``layers: all``.

    Behind the last block the state also has the decoded patches as ``dense``, and as ``attention``
    the map between patches of o(c x_11).

    Args:
        channels: where distracting patches are large, in a network of ``of_width`` channels.
        of_width: width that ``channels`` are for; they are scaled to other widths; None: not.
        sigma: a patch is distracting if a channel's share of it is above sigma / width.
        keep: share of a distracting patch that stays, 0 .. 1.
        cut: cosines between g's patches become 0 below this.
        refocus_threshold: of `refocused`; None: off, as released.
        refocus_share: of `refocused`, its beta.

    Raises:
        LabError: a channel that the network does not have, or a share out of range.
    """
    within("keep", keep, 0, 1)
    chosen = channels_of(channels, of_width, block.width)
    last = block.index == block.depth - 1
    if refocus_threshold is None or last:
        tokens = block.plain(state.tokens)
    else:
        prefix = block.prefix
        weights = refocused(ctx.input.attention(), refocus_threshold, refocus_share, prefix)
        tokens = ctx.tokens + block.output(weights, ctx.value)
        tokens = block.with_mlp(tokens, ctx.tokens)
    tokens = repaired(tokens, ctx.grid, chosen, sigma, keep, block.prefix)
    if not last:
        return replace(state, tokens=tokens)

    # What enters a block is what lies behind the block before it.
    behind = [*(entered.tokens for entered in (*ctx.history, ctx.input)[1:]), tokens]
    guide = torch.stack(behind).mean(0)
    near = cut_below(cosine(guide, block.prefix), cut).to(guide.dtype)
    earlier = sum_of_self_attention(ctx)
    (first, attention), (second, _) = (decode(block, u, near, earlier) for u in (ctx.tokens, guide))
    dense = torch.cat([tokens[:, : block.prefix], (first + second) / 2], dim=1)
    return replace(state, tokens=tokens, dense=dense, attention=attention)


def sum_of_self_attention(ctx: Context) -> Tensor | float:
    """Sum of softmax(s k k^T) of all earlier blocks: (batch, heads, tokens, tokens), or 0."""
    return sum((entered.attention("key", "key") for entered in ctx.history), 0.0)


def decode(
    block: Block, tokens: Tensor, near: Tensor, earlier: Tensor | float
) -> tuple[Tensor, Tensor]:
    """o(c u) of the module's formula, (batch, patches, width), and A(c u) among patches.

    A(c u) is (batch, heads, patches, patches); rows lack the class token's share. ``tokens`` are u,
    ``near`` is c, (batch, patches, patches), not normalised, and ``earlier`` is
    `sum_of_self_attention`.
    """
    prefix = block.prefix
    inner = BlockInput(block, torch.cat([tokens[:, :prefix], near @ tokens[:, prefix:]], dim=1))
    weights = (earlier + inner.attention("key", "key")) / block.depth
    weights = weights[:, :, prefix:, prefix:]
    return block.output(weights, inner.projected("value")[:, :, prefix:]), weights


def channels_of(channels: Sequence[int], of_width: int | None, width: int) -> list[int]:
    """The channels in a network of this width; arguments as in `rfclip`."""
    scale = 1.0 if of_width is None else width / of_width
    scaled = sorted({int(channel * scale) for channel in channels})
    if not scaled or scaled[0] < 0 or scaled[-1] >= width:
        raise LabError(f"channels {list(channels)}: at least one, each below {of_width or width}")
    return scaled


def distracting(patches: Tensor, channels: Sequence[int], sigma: float) -> Tensor:
    """Whether each patch is distracting: (batch, patches, width) -> (batch, patches) bool."""
    above = patches - patches.amin(-1, keepdim=True)
    share = above[..., list(channels)] / above.sum(-1, keepdim=True)
    return share.amax(-1) > sigma / patches.shape[-1]


def repaired(
    tokens: Tensor, grid: Grid, channels: Sequence[int], sigma: float, keep: float, prefix: int
) -> Tensor:
    """Rp of the module docstring: (batch, tokens, width), same shape out; the class token stays."""
    patches = tokens[:, prefix:]
    image = patches.mT.unflatten(2, grid)
    # The divisor is nine at the border too.
    mean = F.avg_pool2d(image, 3, stride=1, padding=1).flatten(2).mT
    mixed = keep * patches + (1 - keep) * mean
    mask = distracting(patches, channels, sigma)[..., None]
    return torch.cat([tokens[:, :prefix], torch.where(mask, mixed, patches)], dim=1)


def refocused(weights: Tensor, threshold: float, share: float, prefix: int) -> Tensor:
    """Move attention away from sinks, patches that all patches attend to.

    A patch is a sink if its column, summed over patch queries and divided by the number of
    tokens, is above the threshold. Sinks keep ``share`` (beta) of their attention; the rest goes to
    the other patches of the row in proportion to their own. A row of sinks alone, as on a tiny
    grid, stays, and so do the class token's row and column. ``weights`` are (batch, heads, tokens,
    tokens), ``prefix`` of which precede the patches.
    """
    between = weights[:, :, prefix:, prefix:]
    sinks = (between.sum(-2, keepdim=True) / weights.shape[-1] > threshold).to(weights.dtype)
    of_sinks = (between * sinks).sum(-1, keepdim=True)
    others = between * (1 - sinks)
    of_others = others.sum(-1, keepdim=True)
    moved = between * (1 - (1 - share) * sinks) + of_sinks * (1 - share) * (others / of_others)
    result = weights.clone()
    result[:, :, prefix:, prefix:] = torch.where(of_others > 0, moved, between)
    return result
