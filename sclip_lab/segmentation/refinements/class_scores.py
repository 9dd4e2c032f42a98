"""CLIPer's decision: background, if no class that the photo probably shows is strong enough.

Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836, without the diffusion before the decision.
"""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_logits

EPSILON = 1e-5  # a map whose maximum is 0 stays 0


@refines_logits
def class_scores(
    mask: Tensor, background: int = 1, class_threshold: float = 0.5, pixel_threshold: float = 0.5
) -> Tensor:
    """Maps of the classes that exceed ``class_threshold`` anywhere, cut at ``pixel_threshold``.

    With s the maximum of a class's map M, the map becomes s M / (s + 1e-5), 0 below the pixel
    threshold, and 0 everywhere unless s is above the class threshold. Background has a map of 0 and
    gets the pixels without a class. The official code takes s from the patches. Here s is the
    maximum over the photo's pixels, which interpolation can only lower.

    Args:
        background: how many of the first queries are background; one or more.
        class_threshold, pixel_threshold: 0 or more.

    Raises:
        LabError: no background query, or only background queries.
    """
    if not 1 <= background < len(mask):
        raise LabError(
            f"refinement class_scores: background {background} must be 1 .. {len(mask) - 1} "
            "of the queries"
        )
    scores = mask.amax(dim=(1, 2), keepdim=True)
    maps = mask * (scores / (scores + EPSILON))
    maps[maps < pixel_threshold] = 0
    maps[(scores <= class_threshold).flatten()] = 0
    maps[:background] = 0
    return maps
