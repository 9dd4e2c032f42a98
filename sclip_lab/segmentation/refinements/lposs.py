"""LPOSS's second step: logits propagated over the pixels of the photo, at the photo's size.

Stojnic, Kalantidis, Matas, Tolias, CVPR 2025, arXiv 2503.19777.
"""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.functions import refines_logits
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.propagation import lab, propagate_over_pixels


@refines_logits
def lposs(
    mask: Tensor,
    image: Tensor,
    backbone: Backbone,
    radius: int = 6,
    tau: float = 0.01,
    alpha: float = 0.95,
    steps: int = 10,
) -> Tensor:
    """Logits propagated among pixels of like colour within ``radius`` rows and columns.

    Colours are CIE L*a*b*. The result is float32; values may be far above 1. ``radius``, ``tau``,
    ``alpha`` and ``steps`` are those of `sclip_lab.segmentation.propagation.propagate_over_pixels`;
    ``backbone`` has the channel statistics. A float32 ``mask`` is overwritten by the result.
    """
    scores = mask.float()
    # The colours have no name here, so that their memory is free before the solution.
    return propagate_over_pixels(
        lab(backbone.pixels(image) / 255), scores, radius, tau, alpha, steps, out=scores
    )
