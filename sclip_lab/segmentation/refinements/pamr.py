"""PAMR, pixel-adaptive mask refinement.

Araslanov and Roth, CVPR 2020, arXiv 2005.04265, section 4.2. Each pixel's logits become an average
of its neighbours', weighted by how alike the pixels look; a few rounds of that move a coarse mask
to the edges of the photo. No training, no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_logits
from sclip_lab.core.values import within

SHARPNESS = 0.1  # affinities fall to 1 / e at a tenth of the local standard deviation
EPSILON = 1e-8  # where a channel is constant around a pixel
DILATIONS = (8, 16)  # pixels, as in SCLIP's code


@refines_logits
def pamr(
    image: Tensor, mask: Tensor, steps: int = 10, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Refine logits so that their edges follow those of the photo.

    mask <- sum over n of affinity_n * mask_n, ``steps`` times, over the 8 neighbours at each
    dilation. One shifted view of the mask is in memory at a time, so memory is three masks and one
    plane per neighbour, whatever the number of queries. On a CPU one query is refined to its end
    before the next, so that the data stay in the cache.

    Args:
        mask: logits; resized to the image's size if they have another (bilinear, corners aligned).
        steps: rounds, 0 or more.
        dilations: distances of the neighbours in pixels, each 1 or more.

    Returns:
        (queries, height, width) float32, every value within the range of ``mask``.
    """
    within("steps", steps, 0)
    image, mask = image.float(), mask.float()
    size = image.shape[-2:]
    if mask.shape[-2:] != size:
        mask = F.interpolate(mask[None], size, mode="bilinear", align_corners=True)[0]
    weights = affinity(image, dilations)
    shifts = _shifts(dilations)
    margin = max(dilations)
    refined = torch.empty_like(mask)
    each = 1 if mask.device.type == "cpu" else len(mask)
    for part, place in zip(mask.split(each), refined.split(each), strict=True):
        for _ in range(steps):
            padded = F.pad(part[None], (margin,) * 4, mode="replicate")[0]
            part = torch.zeros_like(part)
            for weight, (y, x) in zip(weights, shifts, strict=True):
                part.addcmul_(weight, _shifted(padded, y, x, margin))
        place[:] = part
    return refined


def affinity(image: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Weight of each neighbour at each pixel: (8 * dilations, height, width).

    The softmax over all neighbours of the mean over channels of

        -|I - I_n| / (0.1 sd + 1e-8)

    with sd the unbiased standard deviation of a channel over the 3 x 3 samples of every dilation.
    Beyond the border the nearest pixel is repeated. Neighbours are row-major within a dilation;
    ``image`` is (channels, height, width) float.
    """
    if not dilations or min(dilations) < 1:
        raise LabError(f"pamr: dilations {list(dilations)}: at least one, each 1 or more")
    margin = max(dilations)
    samples = 9 * len(dilations)
    padded = F.pad(image[None], (margin,) * 4, mode="replicate")[0]
    scores = image.new_zeros(8 * len(dilations), *image.shape[-2:])
    for channel, centre in zip(padded, image, strict=True):
        # The centre counts once per dilation; its difference of 0 adds nothing to either sum.
        difference = torch.stack(
            [_shifted(channel, y, x, margin) for y, x in _shifts(dilations)]
        ).sub_(centre)
        mean = difference.sum(0) / samples
        squares = (difference - mean).square_().sum(0) + len(dilations) * mean.square()
        deviation = (squares / (samples - 1)).sqrt_()
        scores -= difference.abs_() / (EPSILON + SHARPNESS * deviation)
    return torch.softmax(scores.div_(len(image)), dim=0)


def _shifts(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """(rows down, columns right) of each neighbour."""
    around = [offset for offset in product((-1, 0, 1), repeat=2) if offset != (0, 0)]
    return [(y * dilation, x * dilation) for dilation in dilations for y, x in around]


def _shifted(padded: Tensor, y: int, x: int, margin: int) -> Tensor:
    """The view of a padded plane (or stack), y rows below and x columns right of the plane."""
    height, width = padded.shape[-2] - 2 * margin, padded.shape[-1] - 2 * margin
    return padded[..., margin + y : margin + y + height, margin + x : margin + x + width]
