"""Feature surgery: CLIP Surgery's similarity without what all texts share.

Li et al., arXiv 2304.05653. A patch's product with a text is a sum over channels. The part that it
has with the average text, weighted by the image's similarity to each text, is redundant and
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

    The paper sums over channels the weighted products less their mean over texts; here the sum
    comes first, so no (tokens, texts, channels) array is made. ``image`` has the unit rows of the
    tokens, (batch, tokens, embed_dim), the class embedding first, and ``text`` those of the texts,
    (texts, embed_dim). (batch, tokens, texts) out; the texts of each token sum to 0.
    """
    weights = torch.softmax(sharpness * image[:, :1] @ text.T, dim=-1)
    weighted = (image @ text.T) * (weights / weights.mean(-1, keepdim=True))
    return weighted - weighted.mean(-1, keepdim=True)
