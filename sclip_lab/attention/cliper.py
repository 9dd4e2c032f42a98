"""Attention of all earlier blocks, summed and balanced, in place of the last block's own.

CLIPer: Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836. With M the sum of
softmax(q k^T / sqrt(d)) over all blocks before the last, ``rounds`` times: columns divided by
their sums, then rows by theirs (Sinkhorn's alternation); then S = (M + M^T) / 2, the mean of each
column subtracted, negative entries dropped, rows divided by their sums. Residual and MLP of the
last block are dropped.

The official code balances M in place once more for every level it reads out, so that level l of
L has had l rounds and the final features have had L; the levels below the last send the input of
block l, normalised there, through the last block's value path.
"""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import block_edit, weights_function
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context, State
from sclip_lab.network.depth import Layer, resolve


@weights_function
def cliper(ctx: Context, rounds: int | None = None) -> Tensor:
    """Balanced sum of the earlier blocks' attention.

    Args:
        ctx: the block as the variant sees it; a prior acts on every earlier block's scores.
        rounds: column and row alternations, 0 or more; None for the network's number of blocks.

    Returns:
        (batch, heads, tokens, tokens); rows sum to 1.
    """
    if not ctx.history:
        raise LabError("the first block has no earlier attention to sum")
    if rounds is not None and rounds < 0:
        raise LabError(f"rounds {rounds} must be 0 or more")
    total = ctx.at(0).attention()
    for index in range(1, ctx.block.index):
        total = total + ctx.at(index).attention()
    return balanced(total, ctx.block.depth if rounds is None else rounds)


@block_edit
def level(block: Block, state: State, ctx: Context, source: Layer = -1) -> State:
    """The final features of one level of CLIPer's fusion.

    Args:
        block, state, ctx: as for every block edit.
        source: the block whose input is read, l of L; -1 is CLIPer itself.

    Returns:
        a state whose tokens are O(A_l v) without residual and MLP.
    """
    index = resolve(source, block.depth)
    weights = cliper(ctx, rounds=index + 1)
    value = ctx.value
    if index < block.index:
        # Normalised twice: by the level's own LN1, and again by this block's.
        value = block.project(block.norm(ctx.earlier(source).normed), "value")
    return State(block.output(weights, value), state.dense, weights)


def balanced(attention: Tensor, rounds: int) -> Tensor:
    """Sinkhorn alternations, symmetrised, what lies below a column's mean dropped.

    Args:
        attention: (..., tokens, tokens), not negative.
        rounds: alternations, 0 or more.

    Returns:
        the same shape; rows sum to 1.
    """
    for _ in range(rounds):
        attention = attention / attention.sum(dim=-2, keepdim=True)
        attention = attention / attention.sum(dim=-1, keepdim=True)
    attention = (attention + attention.mT) / 2
    attention = (attention - attention.mean(dim=-2, keepdim=True)).clamp(min=0)
    return attention / attention.sum(dim=-1, keepdim=True)
