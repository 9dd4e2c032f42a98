"""MaskCLIP's two refinements of patch logits: prompt denoising and key smoothing.

Zhou, Loy, Dai, ECCV 2022, arXiv 2112.01071, section 3.3. Both change an image's patch logits,
cosines of patch and text embeddings, before these are resized.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.core.values import within
from sclip_lab.network.context import BlockInput
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine

SCALE = 100.0  # CLIP's logit scale
ABSENT = -100.0  # cosine of a class that is not there: below any other by far


@readout_function
def maskclip(
    encoded: Encoded, text: Tensor, denoising: float = 0.5, smoothing: float = 1.0
) -> Tensor:
    """Cosines with prompt denoising, then key smoothing, in each window by itself.

    With key smoothing the result has probabilities and weighted sums of them, not cosines, which
    changes the meaning of a logit scale and a probability threshold.

    Args:
        denoising: threshold of `prompt_denoising`; 0 leaves it out.
        smoothing: threshold of `key_smoothing`; 0 leaves it out.
    """
    logits = cosine(encoded, text).permute(0, 3, 1, 2)
    if denoising:
        logits = prompt_denoising(logits, denoising)
    if smoothing:
        logits = key_smoothing(logits, smoothing_keys(encoded.history[-1]).float(), smoothing)
    return logits.permute(0, 2, 3, 1)


def prompt_denoising(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """Set classes that no patch of the image is sure of to -100.

    ``logits`` are (batch, classes, grid_h, grid_w) cosines, same shape out. A class is dropped if
    its largest probability in the image is below ``threshold``, 0 .. 1.
    """
    within("threshold", threshold, 0, 1)
    surest = torch.softmax(SCALE * logits, dim=1).amax((2, 3), keepdim=True)
    return logits.masked_fill(surest < threshold, ABSENT)


def smoothing_keys(entered: BlockInput) -> Tensor:
    """out_proj(k) of the last block's input: (batch, patches, width).

    The official code sends keys through the output projection, as it does with the values.
    """
    return entered.block.merge(entered.projected("key"))[:, entered.block.prefix :]


def key_smoothing(logits: Tensor, keys: Tensor, threshold: float = 1.0) -> Tensor:
    """Replace unsure patches by an average of all patches, weighted by similarity of keys.

    p <- K K^T p for the patches whose largest class probability is below the threshold. As in the
    official code each *channel* of K is divided by its norm over the positions, not each key.

    Args:
        logits: (batch, classes, grid_h, grid_w) cosines; probabilities out, and weighted sums of
            them for replaced patches.
        keys: (batch, grid_h * grid_w, width), from `smoothing_keys`.
        threshold: 0 .. 1; with 1, all but saturated patches are replaced.
    """
    within("threshold", threshold, 0, 1)
    probability = torch.softmax(SCALE * logits, dim=1).flatten(2).transpose(1, 2)
    keys = keys / keys.norm(dim=1, keepdim=True)
    smoothed = keys @ (keys.transpose(1, 2) @ probability)
    unsure = probability.amax(-1, keepdim=True) < threshold
    result = torch.where(unsure, smoothed, probability)
    return result.transpose(1, 2).unflatten(2, logits.shape[2:])
