"""CLIPtrase: regions from the network's own similarities, and one class for each of them.

CLIPtrase: Shao, Tian, Zhao, Su, ECCV 2024, arXiv 2407.08268. Patches are clustered by their
correlations with all other patches in the last block but one, clusters become regions of pixels,
and each region takes the class of most of its pixels. The attention is the variant ``cliptrase``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter
from sklearn.cluster import DBSCAN
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_labels, uses
from sclip_lab.network.context import BlockInput
from sclip_lab.network.depth import Layer, resolve
from sclip_lab.segmentation.encoded import Encoded

NOISE = -1
ENLARGED = 4  # patch maps are smoothed at four times their size
MEDIAN = 7  # side of the median filter on the enlarged map


def self_correlation(entered: BlockInput) -> Tensor:
    """(batch, tokens, tokens) cosines between tokens, mean over heads and q, k, v."""
    total = torch.zeros(())
    for name in ("query", "key", "value"):
        unit = F.normalize(entered.projected(name), dim=-1)
        total = total + unit @ unit.mT
    return (total / 3).mean(dim=1)


def affinity(correlation: Tensor, prefix: int = 1) -> Tensor:
    """max(c_ij - c_0j, 0) of patches i, j and the class token 0, where c is ``correlation``.

    (tokens, tokens) with the class token first -> (patches, patches); ``prefix`` tokens precede the
    patches.
    """
    return (correlation[prefix:, prefix:] - correlation[:1, prefix:]).clamp(min=0)


def clusters(rows: Tensor, eps: float = 0.7, min_samples: int = 3) -> np.ndarray:
    """(patches,) cluster numbers from 0 on by DBSCAN, `NOISE` for patches in no cluster.

    A row of ``rows``, (patches, patches) from `affinity`, describes a patch. ``eps`` is the largest
    Euclidean distance between neighbours; ``min_samples`` neighbours make a patch a core, itself
    included.
    """
    return DBSCAN(eps=eps, min_samples=min_samples).fit(rows.cpu().numpy()).labels_


def regions(
    rows: Tensor, labels: np.ndarray, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """(height, width) int64 cluster number of each pixel; all `NOISE` if there is no cluster.

    A cluster's map is the mean row of its patches, so patches in no cluster get a region too. It is
    enlarged four times (bilinear), median-filtered and enlarged to ``size``, (height, width).
    ``labels`` are those of `clusters` for the same ``rows``.
    """
    number = int(labels.max(initial=NOISE)) + 1
    if number == 0:
        return torch.full(size, NOISE)
    members = [torch.from_numpy(labels == cluster).to(rows.device) for cluster in range(number)]
    maps = torch.stack([rows[member].mean(dim=0) for member in members]).unflatten(1, grid)
    maps = F.interpolate(maps[None], scale_factor=ENLARGED, mode="bilinear")[0]
    smooth = median_filter(maps.cpu().numpy(), size=(1, MEDIAN, MEDIAN), mode="reflect")
    return F.interpolate(torch.from_numpy(smooth)[None], size, mode="bilinear")[0].argmax(dim=0)


def vote(prediction: Tensor, region: Tensor) -> Tensor:
    """Give each region its most frequent class; ties go to the smallest, noise does not change.

    ``prediction``, (height, width) class ids, and ``region`` from `regions` have one shape.
    """
    result = prediction.clone()
    for number in region.unique().tolist():
        if number != NOISE:
            inside = region.to(prediction.device) == number
            result[inside] = prediction[inside].long().bincount().argmax().to(prediction.dtype)
    return result


@uses("history")
@refines_labels
def cliptrase(
    prediction: Tensor,
    encoded: Encoded,
    eps: float = 0.7,
    min_samples: int = 3,
    layer: Layer = "11/12",
) -> Tensor:
    """Every region takes the class that most of its pixels have.

    Args:
        eps, min_samples: of `clusters`. The official code has 0.7 and 3 at 224 pixels, 1.1 and 7
            beyond.
        layer: the layer whose correlations are clustered, index or fraction of depth.

    Raises:
        LabError: a photo cut into windows.
    """
    if len(encoded.images) != 1:
        raise LabError(
            f"refinement cliptrase clusters a photo as a whole, but it was cut into "
            f"{len(encoded.images)} windows; set protocol.crop_size=null"
        )
    entered = encoded.history[resolve(layer, encoded.backbone.depth)]
    entered.block.need_class_token("refinement cliptrase", "refine with pamr instead")
    rows = affinity(self_correlation(entered)[0].float(), entered.block.prefix)
    size = prediction.shape[0], prediction.shape[1]
    return vote(prediction, regions(rows, clusters(rows, eps, min_samples), encoded.grid, size))
