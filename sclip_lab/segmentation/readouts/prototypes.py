"""Classes by the masks of other photos, for networks that know no text.

PANet's prototypes (Wang et al., ICCV 2019, arXiv 1908.06391, eq. 1 to 3): the mean feature under a
class's mask in each photo, averaged over photos; a patch belongs to the prototype with the largest
cosine. Here features have unit length, and the photos are all others of the data set, so that no
photo sees its own mask:

    m_c(i) = mean of unit(f) over the patches of class c in photo i
    p_c = unit(sum over photos i other than this one of m_c(i))
    logits = unit(f) . p_c
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sclip_lab.core.functions import reads_others
from sclip_lab.core.shapes import Logits
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit

ABSENT = -1.0  # the lowest cosine: a class that no other photo shows is never chosen


def class_means(encoded: Encoded, labels: Tensor, classes: int) -> Tensor:
    """m_c of one photo: (classes, embed_dim) float32; zeros for absent classes.

    ``labels`` are the (windows, grid_h, grid_w) int64 class of each patch, -1 for void.
    """
    patches, labels = unit(encoded.patches.float()).flatten(0, 2), labels.flatten()
    members = torch.nn.functional.one_hot(labels + 1, classes + 1)[:, 1:].to(patches)
    return (members.T @ patches) / members.sum(0).clamp_min(1)[:, None]


@reads_others(class_means)
def prototypes(encoded: Encoded, others: Sequence[Tensor]) -> Logits:
    """Logits of the module's formula, in -1 .. 1: (windows, grid_h, grid_w, classes) float32.

    Args:
        encoded: windows of one photo.
        others: `class_means` of each other photo of the data set.
    """
    # One by one: a stack of all photos' means would take more memory.
    total = torch.zeros_like(others[0])
    for means in others:
        total += means
    norm = total.norm(dim=-1, keepdim=True)
    logits = unit(encoded.patches.float()) @ (total / norm.clamp_min(1e-12)).T
    return logits.masked_fill(norm[:, 0] == 0, ABSENT)
