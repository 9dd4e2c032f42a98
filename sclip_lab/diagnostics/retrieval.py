"""Do patches of other photos know what a patch is? Nearest neighbours among labelled patches.

Balazevic et al., NeurIPS 2023, arXiv 2306.01667 (dense nearest neighbour retrieval), on the photos
of one data set, each photo against all others. The memory holds some patches of each photo.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.diagnostics.observation import VOID


def patch_retrieval(
    features: Sequence[Tensor],
    labels: Sequence[Tensor],
    neighbours: int = 30,
    temperature: float = 0.02,
) -> list[float]:
    """mIoU of the labels that a photo's patches take over from the patches of all other photos.

    A patch asks its ``neighbours`` nearest by cosine; they vote with softmax(cosine /
    temperature). Patches labelled -1 (void) neither ask nor answer. Each photo has (patches, dim)
    features, of any length, and (patches,) labels. Defaults are the paper's. Returns for each photo
    the mean IoU over the classes of its patches, 0 .. 1; NaN if none of its patches has a label, or
    no patch of another photo.
    """
    is_labelled = [names != VOID for names in labels]
    sides = [F.normalize(f[k].float(), dim=-1) for f, k in zip(features, is_labelled, strict=True)]
    truths = [names[k].long() for names, k in zip(labels, is_labelled, strict=True)]
    scores = []
    for photo, (queries, truth) in enumerate(zip(sides, truths, strict=True)):
        others = [k for k in range(len(sides)) if k != photo and len(sides[k])]
        if not len(queries) or not others:
            scores.append(float("nan"))
            continue
        memory, answers = (torch.cat([of[k] for k in others]) for of in (sides, truths))
        near = (queries @ memory.mT).topk(min(neighbours, len(memory)), dim=-1)
        weights = (near.values / temperature).softmax(-1)
        votes = weights.new_zeros(len(queries), int(answers.max()) + 1)
        votes.scatter_add_(1, answers[near.indices], weights)
        guess = votes.argmax(-1)
        ious = []
        for label in truth.unique():
            one, other = guess == label, truth == label
            ious.append(float((one & other).sum() / (one | other).sum()))
        scores.append(float(np.mean(ious)))
    return scores


def some(count: int, limit: int = 256) -> np.ndarray:
    """Which of ``count`` patches are kept: at most ``limit``, in equal steps."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int)
