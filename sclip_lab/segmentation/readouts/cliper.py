"""CLIPer's readout: several levels of one network fused.

CLIPer: Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836: its CLIP part, without the
diffusion refinement. The other levels differ from the last level only in the last block
(`sclip_lab.attention.cliper.level_tokens`), which reads every block's attention from the first
pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.cliper import level_tokens
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import readout_function
from sclip_lab.network.context import Context, State
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit


@readout_function
def cliper(
    encoded: Encoded,
    text: Tensor,
    scale: float = 50.0,
    threshold: float = 0.2,
    window: int | None = None,
    stride: int = 112,
    background: int = 0,
) -> Tensor:
    """CLIPer's fused maps, for any variant: the levels below the last are CLIPer's own.

    The official code runs with the position-embedding rule ``bilinear_half``.

    Args:
        scale: factor on cosines before the softmax over texts.
        threshold: the last level's map is 0 below this share of its maximum.
        window: side in pixels of additional windows, as for Cityscapes, see `of_windows`; their
            probabilities count half. None: none.
        stride: pixels from the start of one of these windows to the next.
        background: how many of the first queries only compete, as in the official code: their maps
            are 0. With 0 of them, background is a class like the others.

    Returns:
        scores of 0 or more.

    Raises:
        LabError: as many background queries as there are queries, or a variant without a single
            attention map of patches in its last block.
    """
    if not 0 <= background < len(text):
        raise LabError(
            f"readout cliper: background {background} must be 0 .. {len(text) - 1} queries"
        )
    foreground = text[background:]
    # The direction of the mean foreground class competes too.
    mean = foreground.mean(dim=0, keepdim=True)
    text = torch.cat([foreground, text[:background], mean / mean.norm()]).float()
    text = text.to(encoded.patches.device)
    levels = torch.softmax(logits_of_levels(encoded, text, scale), dim=2)
    if window is not None:
        inner = [of_windows(encoded, i, text, scale, window, stride) for i in range(len(levels[0]))]
        levels = (levels + torch.softmax(torch.stack(inner, dim=1), dim=2)) / 2
    maps = fused(levels[:, :, : len(foreground)], among_patches(encoded), threshold)
    return F.pad(maps.mT.unflatten(1, encoded.grid), (background, 0))


def logits_of_levels(encoded: Encoded, text: Tensor, scale: float) -> Tensor:
    """scale * cosines of every level: (levels, windows, texts, patches), the last level last."""
    backbone, entered = encoded.backbone, encoded.history[-1]
    context = Context(entered, encoded.history[:-1], encoded.grid)

    def logits(patches: Tensor) -> Tensor:
        return (scale * unit(patches.float().flatten(1, 2)) @ text.T).mT

    levels = []
    for source in range(backbone.depth - 1):
        state = State(level_tokens(context, source))
        levels.append(logits(backbone.project(state, encoded.grid)[0]))
    return torch.stack([*levels, logits(encoded.patches)])


def among_patches(encoded: Encoded) -> Tensor:
    """(windows, patches, patches): the last block's attention, mean over heads."""
    if encoded.state.attention is None:
        raise LabError(
            f"readout cliper: attention '{encoded.variant.name}' has no single map to spread along"
        )
    patches = math.prod(encoded.grid)
    return encoded.state.attention.float().mean(dim=1)[:, -patches:, -patches:]


def of_windows(
    encoded: Encoded, image: int, text: Tensor, scale: float, window: int, stride: int
) -> Tensor:
    """Every level's logits of one image from its windows, spread along the windows' attention.

    A patch's logits are means over the windows that hold the patch. A pair's weight is the mean
    attention over the windows that hold both patches, or 0. Each row of weights is divided by its
    sum; logits times weights are the result, (levels, texts, patches) of the whole image.
    """
    picture, patch = encoded.images[image], encoded.backbone.patch_size
    size = (picture.shape[-2], picture.shape[-1])
    plan = windows.plan(size, size, window, stride, patch, encoded.backbone.padding)
    cut = encoded.of(plan.cut(picture))
    places = torch.arange(math.prod(encoded.grid), device=text.device).view(encoded.grid)
    total = text.new_zeros(encoded.backbone.depth, len(text), places.numel())
    pairs, count = text.new_zeros(2, places.numel(), places.numel())
    times = text.new_zeros(places.numel())
    logits, attention = logits_of_levels(cut, text, scale), among_patches(cut)
    height, width = cut.grid
    for index, (top, left) in enumerate(plan.corners):
        top, left = top // patch, left // patch  # in patches of the whole image
        at = places[top : top + height, left : left + width].flatten()
        total[..., at] += logits[:, index]
        times[at] += 1
        pairs[at[:, None], at] += attention[index]
        count[at[:, None], at] += 1
    pairs = pairs / (count + 1e-5)  # no window has a pair: 0
    return total / times @ (pairs / pairs.sum(dim=-1, keepdim=True))


def fused(levels: Tensor, attention: Tensor, threshold: float) -> Tensor:
    """The last level, thresholded and spread along attention, plus the mean of all levels.

    ``levels`` are (levels, batch, classes, patches) probabilities; ``attention`` is that of the
    last level, mean over heads; ``threshold`` is a share of each class's maximum.
    """
    last = levels[-1]
    strong = torch.where(last < threshold * last.amax(dim=-1, keepdim=True), 0.0, last)
    # The thresholded map also replaces the last level inside the mean.
    mean = (levels[:-1].sum(dim=0) + strong) / len(levels)
    return strong @ attention + mean
