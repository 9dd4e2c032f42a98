"""Semantic feedback: the prediction of a first pass changes the attention of a second one.

ResCLIP: Yang, Deng, Li, Duan, CVPR 2025, arXiv 2411.15851, "semantic feedback refinement". The
first pass gives each patch a label. Patches of one label attend to each other, less so if the way
between them leaves the label. With F that matrix, blurred and scaled to a maximum of 1, the second
pass has the scores gain * ((1 - share) * s r r^T + share * F) before any prior.

The official code does three things that the paper does not say: only the first c / M of a way is
looked at (see `label_affinity`), the blur runs along the row-major index of the key patches, and F
is rounded to half precision. Published numbers depend on these, so they are the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.core.values import within
from sclip_lab.network.context import Feedback
from sclip_lab.network.scene import positions
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine, unit
from sclip_lab.segmentation.refinements.pamr import DILATIONS, pamr

BLUR_SIGMA = 5.0  # in patches along the row-major index
BLUR_TAPS = 31  # three sigma to either side


@readout_function
def resclip(
    encoded: Encoded,
    text: Tensor,
    share: float = 0.7,
    gain: float = 2.2,
    threshold: float = 0.5,
    scale: float = 40.0,
    steps: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    """Cosines of a second pass whose attention depends on the first one's prediction.

    Each window gets its own feedback; blocks before the first rewritten one run once. It works with
    any variant; ResCLIP's are ``resclip``, ``resclip_clearclip`` and ``resclip_sclip``. Uncertain
    pixels become query 0.

    Args:
        share: of the feedback in the scores, 0 .. 1 (lambda').
        gain: factor on the scores (tau').
        threshold: probability below which a pixel becomes query 0.
        scale: factor on cosines before the softmax.
        steps, dilations: of PAMR on the first prediction.
    """
    pamr_and_scale = {"scale": scale, "steps": steps, "dilations": dilations}
    return cosine(second_pass(encoded, text, share, gain, threshold, **pamr_and_scale), text)


def second_pass(
    encoded: Encoded, text: Tensor, share: float, gain: float, threshold: float, **first: Any
) -> Encoded:
    """Run the windows through the network again, with feedback; arguments as in `resclip`, and
    ``first`` as in `first_prediction`."""
    within("share", share, 0, 1)
    matrices = []
    for image, features in zip(encoded.images, encoded.patches.float(), strict=True):
        probabilities = first_prediction(image, features, text, **first)
        labels = patch_labels(probabilities, encoded.backbone.patch_size, threshold)
        matrices.append(feedback_matrix(labels))
    matrix = encoded.backbone.blocks[0].among_tokens(torch.stack(matrices)[:, None])
    return encoded.again(Feedback(matrix.to(encoded.patches.device), share, gain))


def first_prediction(
    image: Tensor,
    features: Tensor,
    text: Tensor,
    scale: float = 40.0,
    steps: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    """(queries, height, width) probability of each query at each pixel; synonyms are not merged.

    ``image`` is (3, height, width), normalised; ``features`` are (grid_h, grid_w, embed_dim), of
    any norm. Other arguments as in `resclip`.
    """
    logits = (unit(features) @ text.to(features).T).permute(2, 0, 1)[None]
    logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)[0]
    if steps:
        logits = pamr(image.to(logits.device), logits, steps, dilations)
    return torch.softmax(scale * logits, dim=0)


def patch_labels(probabilities: Tensor, patch_size: int, threshold: float) -> Tensor:
    """(grid_h, grid_w) int64: the most frequent query in a patch, the lowest of several.

    Pixels of (queries, height, width) whose best probability is below the threshold count as query
    0; pixels beyond the last whole patch are left out.
    """
    best, label = probabilities.max(dim=0)
    label[best < threshold] = 0
    grid_h, grid_w = (side // patch_size for side in label.shape)
    cells = label[: grid_h * patch_size, : grid_w * patch_size]
    cells = cells.unflatten(0, (grid_h, patch_size)).unflatten(2, (grid_w, patch_size))
    counts = F.one_hot(cells, len(probabilities)).sum(dim=(1, 3))
    return counts.argmax(dim=-1)


def label_affinity(labels: Tensor) -> Tensor:
    """1 between patches of one label, exp(-c / M) if the way leaves the label, 0 between labels.

    c is the Chebyshev distance and M its maximum over the grid. The way from patch i is sampled at
    (1 - t / M) p_i + t / M p_j for t = 0 .. c, rounded half to even. (grid_h, grid_w) integers ->
    (patches, patches) float64; row i has the ways from patch i.
    """
    grid_h, grid_w = labels.shape
    labels = labels.cpu()
    flat = labels.flatten()
    row, column = positions((grid_h, grid_w)).float().unbind(1)
    distance = torch.maximum(
        (row[None] - row[:, None]).abs(), (column[None] - column[:, None]).abs()
    )
    longest = max(grid_h, grid_w) - 1
    leaves = torch.zeros(distance.shape, dtype=torch.bool)
    # Many samples fall halfway between two patches; the float32 rounding of exactly this
    # interpolation decides between them.
    for t, share in enumerate(torch.linspace(0, 1, longest + 1)):
        y = torch.round((1 - share) * row[:, None] + share * row[None]).long()
        x = torch.round((1 - share) * column[:, None] + share * column[None]).long()
        leaves |= (distance >= t) & (labels[y, x] != flat[:, None])
    same = (flat[:, None] == flat[None]).double()
    damping = torch.exp(-distance.double() / max(longest, 1))
    return torch.where(leaves, same * damping, same)


def feedback_weights(labels: Tensor) -> Tensor:
    """`label_affinity`, blurred along the keys, with rows of sum 1 and zeros for the class token.

    (grid_h, grid_w) integers -> (1 + patches, 1 + patches) float64.
    """
    offset = torch.arange(BLUR_TAPS, dtype=torch.float64) - BLUR_TAPS // 2
    kernel = torch.exp(-offset.square() / (2 * BLUR_SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = label_affinity(labels)[:, None]
    blurred = F.conv1d(rows, kernel[None, None], padding=BLUR_TAPS // 2)[:, 0]
    return F.pad(blurred / (blurred.sum(dim=-1, keepdim=True) + 1e-8), (1, 0, 1, 0))


def feedback_matrix(labels: Tensor) -> Tensor:
    """F: `feedback_weights` over their maximum, (1 + patches, 1 + patches) in half precision."""
    weights = feedback_weights(labels)
    return (weights / weights.max()).half()
