"""Does the similarity map of a class point at the class? Patch logits against patch labels.

All functions take ``similarity``, (batch, patches, classes), and ``labels``, (batch, patches), and
return one number per window, (batch,), in 0 .. 1: the mean over the classes that it holds; NaN for
a window whose labelled patches are of one class, or of none. Patches labelled -1 (void) do not take
part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sclip_lab.diagnostics.auc import auroc
from sclip_lab.diagnostics.observation import VOID


def pointing_game(similarity: Tensor, labels: Tensor) -> Tensor:
    """Share of classes whose highest patch is of the class.

    Zhang et al., IJCV 2018, arXiv 1608.00507, section 4.2. The paper allows 15 pixels
    of tolerance; here a patch, which is as wide, has none. Among equal patches the first counts.
    By chance the share is the class's area.
    """
    return _mean_over_classes(
        similarity, labels, lambda map_, of_class: of_class[map_.argmax()].float()
    )


def relevance_mass(similarity: Tensor, labels: Tensor) -> Tensor:
    """Share of the map's mass that lies on the class.

    Relevance mass accuracy of CLEVR-XAI: Arras et al., Information Fusion 2022, arXiv 2003.07258.
    Relevance has to be positive, so the map's lowest value is subtracted. A map that is the same
    everywhere has no mass: 0.
    """

    def mass(map_: Tensor, of_class: Tensor) -> Tensor:
        above = map_ - map_.min()
        return above[of_class].sum() / above.sum().clamp_min(1e-12)

    return _mean_over_classes(similarity, labels, mass)


def rank_accuracy(similarity: Tensor, labels: Tensor) -> Tensor:
    """Share of the map's K highest patches that are of the class, which has K patches.

    Relevance rank accuracy of CLEVR-XAI, see `relevance_mass`.
    """

    def ranked(map_: Tensor, of_class: Tensor) -> Tensor:
        order = map_.argsort(descending=True, stable=True)
        return of_class[order[: int(of_class.sum())]].float().mean()

    return _mean_over_classes(similarity, labels, ranked)


def localisation_auc(similarity: Tensor, labels: Tensor, shuffled: bool = False) -> Tensor:
    """Area under the ROC curve of the class's map as a score of "this patch is of the class".

    0.5 by chance. ``shuffled`` gives the control: it takes for each class the map of the window's
    next class.
    """
    return _mean_over_classes(similarity, labels, auroc, step=int(shuffled))


def _mean_over_classes(
    similarity: Tensor,
    labels: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    step: int = 0,
) -> Tensor:
    means = torch.full((len(labels),), torch.nan)
    for window, (maps, names) in enumerate(zip(similarity.float(), labels, strict=True)):
        counted = names != VOID
        maps, names = maps[counted], names[counted]
        present = names.unique()
        if len(present) < 2:
            continue
        map_of_each = present.roll(-step)  # by one step: the map of the window's next class
        scores = [score(maps[:, m], names == c) for c, m in zip(present, map_of_each, strict=True)]
        means[window] = torch.stack([value.cpu() for value in scores]).float().mean()
    return means.to(labels.device)
