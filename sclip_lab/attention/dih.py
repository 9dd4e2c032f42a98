"""DiH-CLIP: heads chosen by the entropy of their maps, each mixing all channels.

Duan et al., "Diversity in Heads", ICCV 2025. SC-CLIP's passes (`sclip_lab.attention.scclip`)
without the repair of outliers, and with head selection: of maps B_1 .. B_H, the ``heads`` with the
lowest E_h = - sum of all entries B log2(B + 1e-6). A chosen map multiplies the values of the full
width, not only its head's. With x_l the stream behind block l of twelve and c_l cosines between
patches:

    z_9 = x_9 + out_proj(sum over heads chosen by A_qk of A_kk,h V)        c_9 of z_9, c_4 of x_4
    W_h = (softmax(3 (c_9 - mean c_9)) above the mean + A_kk,h) / 2
    last(u) = out_proj(sum over chosen W_h V / H)
    y = Agg_4(last(Agg_9(x_11)) + 0.3 x_11,cls) + Agg_4(last(r) + 0.3 r_cls),  r = x_4 + ... + x_10
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sclip_lab.attention.scclip import check_class_share, passes
from sclip_lab.attention.similarity import averaged, cosine, cut_below, with_similarity
from sclip_lab.core.functions import block_edit
from sclip_lab.core.values import within
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context, State
from sclip_lab.network.depth import Layer


@block_edit
def dih(
    block: Block,
    state: State,
    ctx: Context,
    heads: int = 4,
    similarity_layer: Layer = "9/12",
    average_layer: Layer = "4/12",
    cut: float = 0.4,
    sharpness: float = 3.0,
    class_share: float = 0.3,
    second_pass: Sequence[Layer] | None = ("4/12", "10/12"),
) -> State:
    """The block edit of DiH-CLIP; the state's ``attention`` is W of the first pass.

    Args:
        heads: how many heads are chosen from each map; a network with fewer uses all.
        similarity_layer, average_layer, cut, sharpness, class_share, second_pass: as in
            `sclip_lab.attention.scclip.scclip`.

    Raises:
        LabError: a class_share out of its range, or in a network without class token; no heads.
    """
    check_class_share(block, class_share)
    within("heads", heads, 1)
    prefix = block.prefix
    near = cosine(by_heads(ctx, similarity_layer, heads), prefix)

    def attend(inner: Context, _: bool) -> tuple[Tensor, Tensor]:
        weights = with_similarity(inner, near, ("key",), sharpness)
        chosen = lowest_entropy(weights[:, :, prefix:, prefix:], heads)
        mixed = (weights * chosen).sum(1, keepdim=True) / block.num_heads
        return block.output(mixed, inner.value), weights

    entering = averaged(ctx.tokens, cut_below(near, cut))
    return passes(state, ctx, attend, entering, average_layer, cut, class_share, second_pass)


def by_heads(ctx: Context, layer: Layer, heads: int) -> Tensor:
    """z of block ``layer``: x + out_proj(sum over heads chosen by A_qk of A_kk,h V)."""
    entered = ctx.earlier(layer)
    chosen = lowest_entropy(entered.attention("query", "key"), heads)
    # One map of all chosen heads multiplies the values of every head: the full width.
    mixed = (entered.attention("key", "key") * chosen).sum(1, keepdim=True)
    return ctx.after(layer) + entered.block.output(mixed, entered.projected("value"))


def entropies(maps: Tensor) -> Tensor:
    """- sum of all entries B log2(B + 1e-6) in bits: (batch, heads, n, n) -> (batch, heads)."""
    maps = maps.float()
    return -(maps * torch.log2(maps + 1e-6)).sum((-2, -1))


def lowest_entropy(maps: Tensor, heads: int) -> Tensor:
    """1 for the ``heads`` maps of lowest entropy, 0 for others: (batch, heads, 1, 1)."""
    energy = entropies(maps)
    index = energy.topk(min(heads, energy.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(energy).scatter(1, index, 1.0).to(maps.dtype)[..., None, None]
