"""Feature surgery: CLIP Surgery's similarity without what all texts share.

Li et al., arXiv 2304.05653. A patch's product with a text is a sum over channels. Each product is
weighted by the image's similarity to the text. The mean of the products over texts is redundant and
subtracted.

Shapes: ``tokens`` = 1 class token + patches; ``texts`` = classes or queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit


@readout_function
def surgery(encoded: Encoded, text: Tensor, sharpness: float = 2.0) -> Tensor:
    """`surgery_logits` of each window's patches; ``sharpness`` > 0 as there."""
    patches = encoded.patches.float().flatten(1, 2)
    tokens = torch.cat([encoded.class_embedding.float()[:, None], patches], dim=1)
    return surgery_logits(unit(tokens), text, sharpness)[:, 1:].unflatten(1, encoded.grid)


def surgery_logits(image: Tensor, text: Tensor, sharpness: float = 2.0) -> Tensor:
    """f . (T_n w_n - mean over n of T_n w_n), w = softmax(sharpness f_cls . T) over its mean.

    The paper subtracts the mean over texts in every channel, then sums over channels; here the sum
    comes first, without a (tokens, texts, channels) array. ``image``, (batch, tokens, embed_dim),
    the class embedding first, and ``text``, (texts, embed_dim), have unit rows. Returns (batch,
    tokens, texts); the logits of each token sum to 0.
    """
    weights = torch.softmax(sharpness * image[:, :1] @ text.T, dim=-1)
    weighted = (image @ text.T) * (weights / weights.mean(-1, keepdim=True))
    return weighted - weighted.mean(-1, keepdim=True)
