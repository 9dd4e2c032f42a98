"""Patch logits that also depend on the image as a whole."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine, unit


@readout_function
def class_token(
    encoded: Encoded,
    text: Tensor,
    combine: Literal["add", "multiply"] = "add",
    weight: float = -0.3,
) -> Tensor:
    """Combine the patches' cosines p with the cosines c of the window's class embedding.

    SegEarth-OV (Li et al., CVPR 2025, arXiv 2410.01768, eq. 6) returns p - 0.3 * c, against CLIP's
    global bias; CLIPtrase (arXiv 2407.08268, code) returns p * c on VOC20.

    Args:
        combine: ``add`` returns p + weight * c, ``multiply`` returns p * c.
        weight: factor on c for ``add``.
    """
    patches = cosine(encoded, text)
    whole = (unit(encoded.class_embedding.float()) @ text.T)[:, None, None]
    return patches * whole if combine == "multiply" else patches + weight * whole
