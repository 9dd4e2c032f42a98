"""RF-CLIP's readout: in each group of similar texts, the likeliest is moved towards the photo.

Li et al., "Rectify and focus", AAAI 2026, arXiv 2511.16170. Texts are grouped by complete linkage
of cosine distances. In each group the text T_j with the largest cosine to the photo's class
embedding becomes unit((1 - b) T_j + b m), with m the mean of the unit patches most similar to it.
With T' all texts after that,

    logits = (1 - w) unit(f) . T' + w unit(f_cls) . T
"""

from __future__ import annotations

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from sclip_lab.core.functions import readout_function, uses
from sclip_lab.core.values import within
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import unit


@uses("photo")
@readout_function
def rfclip(
    encoded: Encoded,
    text: Tensor,
    class_share: float = 0.1,
    text_share: float = 0.03,
    cluster_distance: float = 0.1,
    nearest: int = 2,
    whole_photo: bool = True,
) -> Tensor:
    """Logits of the module's formula, window by window; any variant works, RF-CLIP's is ``rfclip``.

    Args:
        class_share: w, 0 .. 1.
        text_share: b, 0 .. 1.
        cluster_distance: texts farther apart than this are in different groups.
        nearest: patches that make m, 1 or more.
        whole_photo: take the class embedding of the photo as one window, not of each window.
    """
    within("class_share", class_share, 0, 1)
    within("text_share", text_share, 0, 1)
    whole = encoded.whole_class_embedding if whole_photo else encoded.class_embedding
    patches, whole = unit(encoded.patches.float()), unit(whole.float())
    group = groups(text, cluster_distance)
    logits = []
    for window, of_photo in zip(patches, whole, strict=True):
        flat = window.flatten(0, 1)
        texts = adjusted(flat, of_photo, text, group, text_share, nearest)
        share = class_share * (text @ of_photo)
        logits.append((1 - class_share) * window @ texts.T + share)
    return torch.stack(logits)


def groups(text: Tensor, distance: float) -> Tensor:
    """(queries,) group of each text, from 0: complete linkage of cosine distances."""
    within("cluster_distance", distance, 0)
    if len(text) == 1:
        return torch.zeros(1, dtype=torch.long)
    tree = linkage(text.double().cpu().numpy(), method="complete", metric="cosine")
    numbers = fcluster(tree, distance, criterion="distance")
    return torch.from_numpy(numbers.astype("int64")) - 1


def adjusted(
    patches: Tensor,
    whole: Tensor,
    text: Tensor,
    group: Tensor,
    share: float = 0.03,
    nearest: int = 2,
) -> Tensor:
    """T' of the module docstring: (queries, embed_dim) unit rows.

    ``patches`` are (patches, embed_dim), ``whole`` is the class embedding, (embed_dim,), all unit
    rows; ``group`` is from `groups`; ``share`` and ``nearest`` are those of `rfclip`.
    """
    result, likely = text.clone(), (text @ whole).cpu()
    for number in range(int(group.max()) + 1):
        members = (group == number).nonzero()[:, 0]
        j = int(members[likely[members].argmax()])
        index = (patches @ text[j]).topk(min(nearest, len(patches))).indices
        mean = unit(patches[index].mean(0))
        result[j] = unit((1 - share) * text[j] + share * mean)
    return result
