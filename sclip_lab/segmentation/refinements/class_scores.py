"""Background where no class that a photo is said to show is strong enough: CLIPer's decision.

Sun, Cao, Xie, Jiang, Pang, ICCV 2025, arXiv 2411.13836, without the diffusion refinement between.
"""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_logits

EPSILON = 1e-5


@refines_logits
def class_scores(
    mask: Tensor, background: int = 1, class_threshold: float = 0.5, pixel_threshold: float = 0.5
) -> Tensor:
    """Maps of the classes that reach ``class_threshold`` anywhere, cut at ``pixel_threshold``.

    With s the maximum of a class's map, the map becomes s M / (s + 1e-5), 0 below the pixel
    threshold, and 0 everywhere unless s lies above the class threshold. Background, whose map is
    0, is what no class is left on. The official code takes s from the patches, here it is that of
    the photo's pixels, which interpolation can only lower.

    Args:
        mask: (queries, height, width) maps, not negative, at the photo's size.
        background: how many of the first queries are background; one or more.
        class_threshold, pixel_threshold: 0 or more.

    Returns:
        the shape of ``mask``.

    Raises:
        LabError: no background query, or nothing but.
    """
    if not 1 <= background < len(mask):
        raise LabError(f"background {background} must be 1 .. {len(mask) - 1} of the queries")
    scores = mask.amax(dim=(1, 2), keepdim=True)
    maps = mask * (scores / (scores + EPSILON))
    maps[maps < pixel_threshold] = 0
    maps[(scores <= class_threshold).flatten()] = 0
    maps[:background] = 0
    return maps
