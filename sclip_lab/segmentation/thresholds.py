"""Probability thresholds that are found for each photo.

A function ``(encoded, text, **parameters) -> threshold`` of the photo's windows and of (queries,
embed_dim) unit text embeddings. A protocol names it in place of a number:
``protocol.prob_threshold``. A threshold above 1 makes all pixels background.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sclip_lab.core.functions import threshold_function
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine


@threshold_function
def entropy(
    encoded: Encoded,
    text: Tensor,
    scale: float = 50.0,
    factor: float = 1.25,
    window: Literal["last", "mean"] = "last",
) -> float:
    """CDAM's threshold: factor / ((min + max) / 2) of the patches' entropies in bits.

    Args:
        scale: factor on cosines before the softmax over queries.
        factor: > 0.
        window: the threshold of the ``last`` window, as in the official code, or the ``mean`` over
            windows.
    """
    thresholds = entropy_thresholds(cosine(encoded, text).flatten(1, 2), scale, factor)
    return float(thresholds[-1] if window == "last" else thresholds.mean())


def entropy_thresholds(cosines: Tensor, scale: float = 50.0, factor: float = 1.25) -> Tensor:
    """A threshold for each window: (windows, patches, queries) -> (windows,); see `entropy`."""
    p = torch.softmax(scale * cosines, dim=-1)
    bits = torch.special.entr(p).sum(-1) / torch.log(torch.tensor(2.0))
    return 2 * factor / (bits.amin(-1) + bits.amax(-1))
