"""Do patches of one class belong together? Attention and features against patch labels.

Patches labelled -1 (void) take part neither as query nor as key. All functions return one number
per window, (batch,), and NaN for a window that has fewer than two classes, or no two patches of
one. They take

- ``weights``, (batch, patches, patches): attention averaged over heads, rows of any positive sum;
- ``scores``, such weights, or (batch, patches, patches) cosines of features;
- ``labels``, (batch, patches), and ``grid``, (grid_h, grid_w).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sclip_lab.diagnostics.auc import area, average_precision
from sclip_lab.diagnostics.observation import VOID
from sclip_lab.network.scene import squared_distances


def inter_class_mass(weights: Tensor, labels: Tensor) -> Tensor:
    """Share of a patch's attention that goes to patches of other classes, mean over patches.

    CorrCLIP (arXiv 2411.10086) ties segmentation to this share. Low is good; uniform attention
    has `inter_class_share`. In 0 .. 1.
    """
    valid = labels != VOID
    other = (labels[:, :, None] != labels[:, None]) & valid[:, None]
    labelled = (weights * valid[:, None]).sum(-1)
    share = (weights * other).sum(-1) / labelled.clamp_min(1e-12)
    # A patch that attends to void alone has no share.
    counted = valid & (labelled > 0)
    mean = (share * counted).sum(-1) / counted.sum(-1)
    several_classes = (other & valid[:, :, None]).flatten(1).any(-1)
    return torch.where(several_classes, mean, torch.nan)


def inter_class_share(labels: Tensor) -> Tensor:
    """`inter_class_mass` of uniform attention: the control to compare with."""
    count = labels.shape[-1]
    uniform = torch.ones(len(labels), count, count, device=labels.device)
    return inter_class_mass(uniform, labels)


def relative_mass(weights: Tensor, labels: Tensor) -> Tensor:
    """Mean share of a patch's attention to other patches that goes to other classes, divided by the
    mean share of other classes among the other patches.

    Attention to self does not count. 0 or more; 1 for uniform attention; NaN also where no patch
    attends to another.
    """
    between = _between(labels)
    return _ratio(weights, between, _other(labels, between), between.to(weights))


def matched_mass(weights: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """`inter_class_mass` without the diagonal, divided by that of a blind map that is as local.

    The blind map spreads a patch's attention at each distance evenly over the places at that
    distance: it is the expectation of the map when weights at equal distances are shuffled. 0 or
    more; 1 for every map that depends on distance alone, such as a Gaussian.
    """
    between = _between(labels)
    other = _other(labels, between)
    distance = _distances(grid).to(weights.device).expand(weights.shape)
    steps = int(distance.max()) + 1

    def by_distance(values: Tensor) -> Tensor:
        sums = weights.new_zeros(*weights.shape[:2], steps)
        return sums.scatter_add(-1, distance, values.to(weights))

    places = by_distance(between).clamp_min(1)
    spread = by_distance(weights * between) / places
    return _ratio(weights, between, other, spread.gather(-1, distance) * between)


def _ratio(weights: Tensor, between: Tensor, other: Tensor, control: Tensor) -> Tensor:
    """Mean share of ``weights`` on other classes over that of ``control``."""
    shares = []
    counted = (weights * between).sum(-1) > 0
    for map_ in (weights, control):
        total = (map_ * between).sum(-1)
        share = (map_ * other).sum(-1) / total.clamp_min(1e-12)
        shares.append((share * counted).sum(-1))
    return torch.where(shares[1] > 0, shares[0] / shares[1], torch.nan)


def _between(labels: Tensor) -> Tensor:
    """(batch, patches, patches) bool: two different, labelled patches."""
    valid = labels != VOID
    itself = torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    return valid[:, :, None] & valid[:, None] & ~itself


def _other(labels: Tensor, between: Tensor) -> Tensor:
    return between & (labels[:, :, None] != labels[:, None])


@lru_cache(maxsize=4)
def _distances(grid: tuple[int, int]) -> Tensor:
    """(patches, patches) int64: equal numbers for equal distances, 0 for a patch and itself."""
    return torch.unique(squared_distances(grid), return_inverse=True)[1]


def matched_auroc(scores: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """`same_class_auroc` that compares pairs of one patch at one distance: near patches are alike.

    In 0 .. 1; 0.5 by chance, and where each patch's score depends on distance alone. NaN where no
    patch has a patch of its class and a patch of another class at one distance.
    """
    areas = []
    for (same, other), score in zip(_matched_places(*_content(labels), grid), scores, strict=True):
        flat = score.float().cpu().flatten()
        # Whole numbers: the sum of halves would be rounded in single precision.
        twice = 2 * (flat[same] > flat[other]).sum() + (flat[same] == flat[other]).sum()
        areas.append(twice.double() / (2 * len(same)))  # 0 / 0 is NaN
    return torch.stack(areas).to(scores.device)


def same_class_auroc(scores: Tensor, labels: Tensor, symmetric: bool = False) -> Tensor:
    """Area under the ROC curve of a score that says whether patches i and j have one label.

    Over all ordered pairs of different patches of a window. In the spirit of STEGO's
    correspondence curves (Hamilton et al., ICLR 2022, arXiv 2203.08414). In 0 .. 1; 0.5 by chance,
    1 when every pair of one class scores above all others. ``symmetric``: the score of (i, j) is
    that of (j, i), so that one of the two is enough.
    """
    areas = [area(*pairs) for pairs in _pairs(scores, labels, symmetric)]
    return torch.stack(areas).to(scores.device)


def same_class_ap(scores: Tensor, labels: Tensor, symmetric: bool = False) -> Tensor:
    """Average precision of `same_class_auroc`'s score, 0 .. 1; by chance `same_class_share`."""
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
    flat, places = scores.float().cpu().flatten(1), _places(*_content(labels), symmetric)
    return [(s[same], s[other]) for s, (same, other) in zip(flat, places, strict=True)]


def _content(labels: Tensor) -> tuple[bytes, tuple[int, ...]]:
    """Bytes and shape: equal for all variants of a photo, so that places are found once."""
    return labels.cpu().long().numpy().tobytes(), tuple(labels.shape)


@lru_cache(maxsize=4)
def _places(content: bytes, shape: tuple[int, ...], symmetric: bool) -> list[tuple[Tensor, Tensor]]:
    """Per window, where the two kinds of pairs of `_pairs` lie in (patches * patches,) scores."""
    labels = torch.frombuffer(bytearray(content), dtype=torch.int64).view(shape)
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


@lru_cache(maxsize=2)
def _matched_places(
    content: bytes, shape: tuple[int, ...], grid: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Per window, all comparisons of one pair of patches with another that have the first patch
    and the distance in common: where a pair of one label lies in (patches * patches,) scores, and
    where the pair of two labels lies."""
    distance = _distances(grid)
    stratum = (
        distance + (int(distance.max()) + 1) * torch.arange(len(distance))[:, None]
    ).flatten()
    comparisons = []
    for same, other in _places(content, shape, symmetric=False):
        other = other[stratum[other].argsort(stable=True)]
        count = torch.bincount(stratum[other], minlength=int(stratum.max()) + 1)
        first = count.cumsum(0) - count  # where a stratum begins in `other`
        partners = count[stratum[same]]
        rank = torch.arange(int(partners.sum()))
        rank -= (partners.cumsum(0) - partners).repeat_interleave(partners)
        chosen = other[first[stratum[same]].repeat_interleave(partners) + rank]
        comparisons.append((same.repeat_interleave(partners), chosen))
    return comparisons
