"""SC-CLIP, self-calibrated CLIP; and SFP, the same passes with other choices.

SC-CLIP: Bai et al., arXiv 2411.15869. SFP: Jin et al., "Feature Purification Matters", ICCV 2025,
https://github.com/Kimsure/SFP. With x_l the tokens behind block l of twelve, R the outlier repair,
c_l the cosine similarities of x_l's patches and Agg_l averaging by c_l cut below 0.4:

    p = Agg_9(R(x_11))          attention input, c_9 from R(x_9)
    W = mean(softmax(3 (c_9 - mean c_9)) above the mean, softmax(k k^T / sqrt(d)))
    y = Agg_4(O(W) + 0.3 x_11,cls) + Agg_4(O'(W') + 0.3 r_cls)

where O' and W' are those of the input r = x_4 + ... + x_10. No MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sclip_lab.attention.similarity import averaged, cosine, cut_below, with_similarity
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import block_edit
from sclip_lab.core.values import within
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput, Context, State
from sclip_lab.network.depth import Layer, resolve


@block_edit
def scclip(
    block: Block,
    state: State,
    ctx: Context,
    repair: Callable[..., Tensor] | None = None,
    similarity_layer: Layer = "9/12",
    average_layer: Layer = "4/12",
    cut: float = 0.4,
    cut_scores: bool = False,
    sharpness: float = 3.0,
    projections: Sequence[str] = ("key",),
    class_share: float = 0.3,
    second_pass: Sequence[Layer] | None = ("4/12", "10/12"),
    second_projections: Sequence[str] = ("key",),
) -> State:
    """The block edit of SC-CLIP and, by its parameters, of SFP; the state's ``attention`` is W.

    Args:
        repair: the repair of outliers, see `sclip_lab.attention.repair`; None: no repair.
        similarity_layer, average_layer: 9 of c_9 and 4 of Agg_4 in the module's formula.
        cut: similarities below it become 0 when patches are averaged.
        cut_scores: also cut them in attention scores (SFP).
        sharpness: factor on the centred similarities, 3 in the module's formula.
        projections: whose self-attention is averaged with the similarity map.
        class_share: 0 .. 1, share of the class token that is added to every output; 0 in networks
            without one.
        second_pass: first and last layer of the sum r; None: one pass.
        second_projections: what ``projections`` are to W, for W'.

    Raises:
        LabError: a class_share out of its range, or in a network without class token.
    """
    check_class_share(block, class_share)
    middle = ctx.after(similarity_layer)
    entering = ctx.tokens
    if repair is not None:
        entering, middle = repair(ctx, tokens=entering), repair(ctx, tokens=middle)
    near = cosine(middle, block.prefix)
    near_cut = cut_below(near, cut)

    def attend(inner: Context, is_first: bool) -> tuple[Tensor, Tensor]:
        names = projections if is_first else second_projections
        weights = with_similarity(inner, near_cut if cut_scores else near, names, sharpness)
        return block.output(weights, inner.value), weights

    entering = averaged(entering, near_cut)
    return passes(state, ctx, attend, entering, average_layer, cut, class_share, second_pass)


def check_class_share(block: Block, class_share: float) -> None:
    """Refuse a share outside of 0 .. 1, and one above 0 in a network without class token."""
    within("class_share", class_share, 0, 1)
    if class_share:
        block.need_class_token(f"class_share {class_share}", "set class_share=0")


def passes(
    state: State,
    ctx: Context,
    attend: Callable[[Context, bool], tuple[Tensor, Tensor]],
    entering: Tensor,
    average_layer: Layer,
    cut: float,
    class_share: float,
    second_pass: Sequence[Layer] | None,
) -> State:
    """The sum y of both passes in the module's formula, and as ``attention`` the map of the first.

    ``attend`` gets the context of the tokens of a pass, and whether it is the first; it returns the
    output and the weights. ``entering`` are p; other arguments as in `scclip`.
    """
    block = ctx.block
    far_cut = cut_below(cosine(ctx.after(average_layer), block.prefix), cut)

    def one_pass(tokens: Tensor, class_token: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        output, weights = attend(replace(ctx, input=BlockInput(block, tokens)), first)
        if class_share:
            output = output + class_share * class_token
        return averaged(output, far_cut), weights

    total, attention = one_pass(entering, ctx.tokens[:, :1], True)
    if second_pass is not None:
        summed = sum_of_layers(ctx, second_pass)
        total = total + one_pass(summed, summed[:, :1], False)[0]
    return replace(state, tokens=total, attention=attention)


def sum_of_layers(ctx: Context, ends: Sequence[Layer]) -> Tensor:
    """Sum of the token streams behind the blocks from ``ends[0]`` to ``ends[1]``."""
    if len(ends) != 2:
        raise LabError(f"second_pass {list(ends)} must name a first and a last layer")
    first, last = (resolve(layer, ctx.block.depth) for layer in ends)
    if first > last:
        raise LabError(f"second_pass {list(ends)}: the first layer lies behind the last")
    return torch.stack([ctx.after(index) for index in range(first, last + 1)]).sum(0)
