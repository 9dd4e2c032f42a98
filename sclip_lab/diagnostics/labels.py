"""Do patches of one class belong together? Attention and features against patch labels.

Patches labelled -1 (void) take part neither as query nor as key. All functions return one number
per window, (batch,), and NaN for a window that has fewer than two classes, or no two patches of
one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.diagnostics.curves import auroc, average_precision
from sclip_lab.diagnostics.observation import VOID
from sclip_lab.errors import LabError


def inter_class_mass(weights: Tensor, labels: Tensor) -> Tensor:
    """Share of a patch's attention that goes to patches of other classes, mean over patches.

    CorrCLIP (arXiv 2411.10086) ties segmentation to this share. Low is good; uniform attention
    has `inter_class_share`.

    Args:
        weights: (batch, patches, patches), rows of any positive sum; heads averaged.
        labels: (batch, patches).

    Returns:
        (batch,) in 0 .. 1.
    """
    valid = labels != VOID
    other = (labels[:, :, None] != labels[:, None]) & valid[:, None]
    seen = (weights * valid[:, None]).sum(-1)
    share = (weights * other).sum(-1) / seen.clamp_min(1e-12)
    # A patch that attends to void alone has no share.
    counted = valid & (seen > 0)
    mean = (share * counted).sum(-1) / counted.sum(-1)
    lowest = torch.where(valid, labels, labels.amax()).amin(-1)
    several = labels.amax(-1) > lowest
    return torch.where(several, mean, torch.nan)


def inter_class_share(labels: Tensor) -> Tensor:
    """`inter_class_mass` of uniform attention: the control to compare with."""
    count = labels.shape[-1]
    uniform = torch.ones(len(labels), count, count, device=labels.device)
    return inter_class_mass(uniform, labels)


def same_class_auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC of "patches i and j have one label" as told by a score.

    Over all ordered pairs of different patches of a window. In the spirit of STEGO's
    correspondence curves (Hamilton et al., ICLR 2022, arXiv 2203.08414).

    Args:
        scores: (batch, patches, patches), attention averaged over heads or cosines of features.
        labels: (batch, patches).

    Returns:
        (batch,) in 0 .. 1; 0.5 by chance, 1 when every pair of one class scores above all others.
    """
    return torch.stack([auroc(*pairs) for pairs in _pairs(scores, labels)])


def same_class_ap(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of the same question; by chance, `same_class_share`.

    Args and returns: as `same_class_auroc`.
    """
    return torch.stack([average_precision(*pairs) for pairs in _pairs(scores, labels)])


def same_class_share(labels: Tensor) -> Tensor:
    """Share of pairs with one label: the average precision of a score that knows nothing."""
    flat = torch.zeros(*labels.shape, labels.shape[-1], device=labels.device)
    return same_class_ap(flat, labels)


def _pairs(scores: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Scores and answers of all ordered pairs of different, labelled patches, per window."""
    if scores.shape != (*labels.shape, labels.shape[-1]):
        raise LabError(f"scores {tuple(scores.shape)} do not belong to labels {labels.shape}")
    valid = labels != VOID
    compared = valid[:, :, None] & valid[:, None]
    compared &= ~torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    same = labels[:, :, None] == labels[:, None]
    windows = zip(scores, same, compared, strict=True)
    return [(score[chosen], answer[chosen]) for score, answer, chosen in windows]
