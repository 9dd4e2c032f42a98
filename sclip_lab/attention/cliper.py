"""CLIPer: the attention of all earlier blocks, summed and balanced, replaces the last block's own.

CLIPer: Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836. M is the sum of
softmax(q k^T / sqrt(d)) over all blocks before the last. ``rounds`` times, each column of M is
divided by its sum, then each row by its sum (Sinkhorn's alternation). From S = (M + M^T) / 2 the
mean of each column is subtracted, negative entries become 0, and each row is divided by its sum.
The last block has neither residual nor MLP.

The official code balances M in place once more for every level it reads out, so that level l of L
has had l rounds and the final features have had L. The levels below the last send the input of
block l, normalised there, through the last block's value path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import block_edit, weights_function
from sclip_lab.core.values import within
from sclip_lab.network.block import Block, softmax_scores
from sclip_lab.network.context import LARGEST_KEPT, Context, State, scores
from sclip_lab.network.depth import Layer, resolve

# At most so many values of attention maps are balanced at once.
LARGEST = 1 << 23


@weights_function
def cliper(ctx: Context, rounds: int | None = None) -> Tensor:
    """Balanced sum of the earlier blocks' attention; rows sum to 1.

    A prior acts on every earlier block's scores. ``rounds`` alternations, 0 or more; None takes the
    network's number of blocks.
    """
    if not ctx.history:
        raise LabError("cliper: the first block has no earlier attention to sum; set other layers")
    rounds = ctx.block.depth if rounds is None else rounds
    within("rounds", rounds, 0)
    return balanced(earlier(ctx), rounds)


def earlier(ctx: Context) -> Tensor:
    """Sum of the attention of all blocks before this one: (batch, heads, tokens, tokens)."""

    def summed() -> Tensor:
        total = ctx.at(0).attention().clone()
        for index in range(1, ctx.block.index):
            total += ctx.at(index).attention()
        return total

    def summed_by_head() -> Tensor:
        """The result of `summed`, head by head: for maps too large to be in memory together."""
        batch, tokens = ctx.tokens.shape[:2]
        total = ctx.query.new_zeros(batch, ctx.block.num_heads, tokens, tokens)
        for entered in ctx.history:
            # Not `projected`, which would keep the projections of all blocks.
            block = entered.block
            query, key = (block.project(entered.normed, name) for name in ("query", "key"))
            bias = block.bias_of(query)
            for head in range(block.num_heads):
                raw = scores(query[:, [head]], key[:, [head]], block.scale)
                total[:, [head]] += softmax_scores(raw, None if bias is None else bias[:, [head]])
        return total

    # A prior, feedback or a closed class token makes a sum that no other variant can share.
    if ctx.prior is None and ctx.feedback is None and not ctx.closed:
        tokens = ctx.tokens.shape[1]
        large = 4 * ctx.block.num_heads * tokens**2 > LARGEST_KEPT
        # All levels of a network share this sum.
        return ctx.input.once("sum of earlier attention", summed_by_head if large else summed)
    return summed()


@block_edit
def level(block: Block, state: State, ctx: Context, source: Layer = -1) -> State:
    """The final features of one level of CLIPer's fusion: O(A_l v) without residual and MLP.

    ``source`` is the block whose input is read, l of L; -1 is CLIPer itself.
    """
    weights = cliper(ctx, rounds=resolve(source, block.depth) + 1)
    return State(block.output(weights, _value(ctx, source)), state.dense, weights)


def level_tokens(ctx: Context, source: Layer) -> Tensor:
    """The tokens of `level`. The attention weights of all heads are never in memory together."""
    block, value = ctx.block, _value(ctx, source)
    rounds, total = resolve(source, block.depth) + 1, earlier(ctx)
    step = max(1, LARGEST // total[:, 0].numel())  # heads
    per_head = [
        balanced(some, rounds).to(value) @ some_values
        for some, some_values in zip(total.split(step, 1), value.split(step, 1), strict=True)
    ]
    return block.merge(torch.cat(per_head, dim=1))


def _value(ctx: Context, source: Layer) -> Tensor:
    """(batch, heads, tokens, head_dim) values of one level."""
    if resolve(source, ctx.block.depth) >= ctx.block.index:
        return ctx.value
    # Normalised twice: by the level's own LN1, and again by this block's.
    return ctx.block.project(ctx.block.norm(ctx.earlier(source).normed), "value")


def balanced(attention: Tensor, rounds: int) -> Tensor:
    """Apply Sinkhorn's alternation, make maps symmetric, drop entries below a column's mean.

    (..., tokens, tokens), not negative, to the same shape; rows sum to 1. ``rounds`` is 0 or more.
    """
    maps = attention.reshape(-1, *attention.shape[-2:])
    result = torch.empty_like(maps)
    # Some at a time: the maps of all heads of a large photo take a gigabyte.
    step = max(1, LARGEST // maps[0].numel())
    for some, balanced_maps in zip(maps.split(step), result.split(step), strict=True):
        for _ in range(rounds):
            some = some / some.sum(dim=-2, keepdim=True)
            some = some / some.sum(dim=-1, keepdim=True)
        some = (some + some.mT) / 2
        some = (some - some.mean(dim=-2, keepdim=True)).clamp(min=0)
        balanced_maps[:] = some / some.sum(dim=-1, keepdim=True)
    return result.view(attention.shape)
