"""The readout of SFP's code where its outlier repair divides 0 by 0.

Jin et al., "Feature Purification Matters", ICCV 2025, https://github.com/Kimsure/SFP. An outlier
patch without a clean neighbour makes every logit of its window NaN, and PyTorch's argmax takes the
first class for NaN. `sclip_lab.attention.repair` divides so only with ``isolated=undefined``.
"""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine

SURE = 1e30  # logit of a class that wins wherever its window has any weight


@readout_function
def undefined_first(encoded: Encoded, text: Tensor) -> Tensor:
    """Cosines; if all of a window are NaN, its pixels get the class of the first query.

    A window with some NaN keeps them, so that it is refused.
    """
    logits = cosine(encoded, text)
    undefined = logits.isnan().flatten(1).all(dim=1)
    logits[undefined] = 0
    logits[undefined, ..., 0] = SURE
    return logits
