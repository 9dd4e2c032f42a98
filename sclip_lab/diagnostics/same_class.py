"""Do patches of one class belong together? Attention and features against patch labels.

Patches labelled -1 (void) take part neither as query nor as key. All functions return one number
per window, (batch,), and NaN for a window that has fewer than two classes, or no two patches of
one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.curves import area, average_precision
from sclip_lab.diagnostics.observation import VOID


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


def same_class_auroc(scores: Tensor, labels: Tensor, symmetric: bool = False) -> Tensor:
    """Area under the ROC of "patches i and j have one label" as told by a score.

    Over all ordered pairs of different patches of a window. In the spirit of STEGO's
    correspondence curves (Hamilton et al., ICLR 2022, arXiv 2203.08414).

    Args:
        scores: (batch, patches, patches), attention averaged over heads or cosines of features.
        labels: (batch, patches).
        symmetric: the score of (i, j) is that of (j, i), so that looking at one of them will do.

    Returns:
        (batch,) in 0 .. 1; 0.5 by chance, 1 when every pair of one class scores above all others.
    """
    areas = [area(*pairs) for pairs in _pairs(scores, labels, symmetric)]
    return torch.stack(areas).to(scores.device)


def same_class_ap(scores: Tensor, labels: Tensor, symmetric: bool = False) -> Tensor:
    """Average precision of the same question; by chance, `same_class_share`.

    Args and returns: as `same_class_auroc`.
    """
    areas = []
    for same, other in _pairs(scores, labels, symmetric):
        both = torch.cat([same, other])
        areas.append(average_precision(both, torch.arange(len(both)) < len(same)))
    return torch.stack(areas).to(scores.device)


def same_class_share(labels: Tensor) -> Tensor:
    """Share of pairs with one label: the average precision of a score that knows nothing."""
    flat = torch.zeros(*labels.shape, labels.shape[-1], device=labels.device)
    return same_class_ap(flat, labels)


def _pairs(scores: Tensor, labels: Tensor, symmetric: bool) -> list[tuple[Tensor, Tensor]]:
    """Per window, on the CPU, the scores of pairs of one label and of pairs of two: all ordered
    pairs of different, labelled patches, or each once."""
    if scores.shape != (*labels.shape, labels.shape[-1]):
        raise LabError(f"scores {tuple(scores.shape)} do not belong to labels {labels.shape}")
    labels = labels.cpu()
    places = _places(labels.numpy().tobytes(), tuple(labels.shape), str(labels.dtype), symmetric)
    windows = zip(scores.float().cpu().flatten(1), places, strict=True)
    return [(score[same], score[other]) for score, (same, other) in windows]


@lru_cache(maxsize=4)
def _places(
    content: bytes, shape: tuple[int, ...], dtype: str, symmetric: bool
) -> list[tuple[Tensor, Tensor]]:
    """Where these pairs lie in (patches * patches,) scores: areas once for all variants."""
    kind = getattr(torch, dtype.removeprefix("torch."))
    labels = torch.frombuffer(bytearray(content), dtype=kind).view(shape)
    valid = labels != VOID
    compared = valid[:, :, None] & valid[:, None]
    compared &= ~torch.eye(shape[-1], dtype=torch.bool)
    if symmetric:
        compared = compared.triu()
    same = labels[:, :, None] == labels[:, None]
    return [
        ((s & c).flatten().nonzero()[:, 0], (~s & c).flatten().nonzero()[:, 0])
        for s, c in zip(same, compared, strict=True)
    ]
