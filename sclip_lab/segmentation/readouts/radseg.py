"""RADSeg's self-correlating global aggregation (SCGA): patch features averaged by similarity.

RADSeg, arXiv 2511.19704. With c the cosines between a window's patch embeddings f,

    f <- softmax(10 (c - mean c)) f   over the pairs above the mean
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.attention.similarity import above_mean
from sclip_lab.core.functions import readout_function
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit


@readout_function
def scga(encoded: Encoded, text: Tensor, sharpness: float = 10.0) -> Tensor:
    """Cosines of aggregated patches with texts, for any variant; RADSeg's is ``scra``.

    ``sharpness`` > 0 is the factor on the centred cosines.
    """
    patches = aggregated(encoded.patches.float().flatten(1, 2), sharpness)
    return (unit(patches) @ text.T).unflatten(1, encoded.patches.shape[1:3])


def aggregated(patches: Tensor, sharpness: float = 10.0) -> Tensor:
    """Apply the module's formula to f: (windows, patches, embed_dim), same shape out."""
    cosines = unit(patches) @ unit(patches).mT
    return torch.softmax(above_mean(cosines, 1.0, sharpness), dim=-1) @ patches
