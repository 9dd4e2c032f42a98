"""Class purification: which classes a photo has, judged by their maps and the attention.

FreeCP: Chen et al., ICCV 2025. Class names that are not in a photo still claim patches. A map whose
shape changes much when attention spreads it is redundant. Maps that end in one shape are ambiguous,
and crops of the photo decide between them.

Shapes: ``maps`` (classes, grid_h, grid_w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Box = tuple[int, int, int, int]
EPSILON = 1e-8
SINKHORN_ROUNDS = 3


def transition(attention: Tensor) -> Tensor:
    """How patches pass activation on: attention made doubly stochastic, symmetric, and squared.

    (patches, patches), not negative, same shape out.
    """
    result = attention
    for _ in range(SINKHORN_ROUNDS):
        result = result / result.sum(dim=0, keepdim=True)
        result = result / result.sum(dim=1, keepdim=True)
    result = (result + result.T) / 2
    return result @ result


def boxes(activation: Tensor, threshold: float = 0.4) -> list[Box]:
    """Boxes around the parts of a map that are above a share of its maximum.

    ``activation`` is (grid_h, grid_w) in 0 .. 1, rounded down to 1 / 255 first. Returns (top, left,
    bottom, right) in patches, of the contours of all parts and of their holes.
    """
    # OpenCV looks for contours in bytes.
    levels = (255 * activation).cpu().numpy().astype(np.uint8)
    above = (levels > int(threshold * levels.max())).astype(np.uint8)
    contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    height, width = levels.shape
    result = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        # The ends are exclusive, and at most the side less one: in the official code, the last row
        # and column are never inside.
        result.append((y, x, min(y + h, height - 1), min(x + w, width - 1)))
    return result


def spread(maps: Tensor, passing: Tensor, threshold: float = 0.4) -> Tensor:
    """Each map within its boxes, passed on among patches by `transition`, brought to 0 .. 1."""
    inside = torch.zeros_like(maps)
    for mask, one in zip(inside, maps, strict=True):
        for top, left, bottom, right in boxes(one, threshold):
            mask[top:bottom, left:right] = 1
    moved = (inside * maps).flatten(1) @ passing.T
    low, high = moved.amin(dim=1, keepdim=True), moved.amax(dim=1, keepdim=True)
    return ((moved - low) / (high - low + EPSILON)).view_as(maps)


def agreement(before: Tensor, after: Tensor) -> Tensor:
    """(classes,): sum of products over sum of both maps, 0 .. 1/2; small values are redundant."""
    before, after = before.flatten(1), after.flatten(1)
    both = (before * after).sum(dim=1)
    return both / (before.sum(dim=1) + after.sum(dim=1) + EPSILON)


def ambiguous(maps: Tensor, threshold: float) -> list[list[int]]:
    """Indices of maps in groups, in order. Maps are linked if their soft IoU is at least
    ``threshold``; a group is linked directly or through others.

    Soft IoU is the sum of the smaller over the sum of the larger of two maps.
    """
    flat = maps.flatten(1)
    smaller = torch.minimum(flat[:, None], flat[None]).sum(-1)
    larger = torch.maximum(flat[:, None], flat[None]).sum(-1)
    linked = smaller / larger >= threshold
    count, numbers = connected_components(linked.cpu().numpy(), directed=False)
    return [np.flatnonzero(numbers == number).tolist() for number in range(count)]


def winners(
    maps: Tensor,
    groups: Sequence[Sequence[int]],
    score: Callable[[Box], Tensor | None],
    threshold: float = 0.4,
) -> list[int]:
    """The classes that each group keeps: of several, the best in each box of their mean map.

    ``score`` tells the (classes,) scores of a box; None for a box without pixels, which keeps the
    whole group.
    """
    chosen: set[int] = set()
    for group in groups:
        if len(group) == 1:
            chosen.update(group)
            continue
        for box in boxes(maps[list(group)].mean(dim=0), threshold):
            scores = score(box)
            if scores is None:
                chosen.update(group)
            else:
                chosen.add(group[int(scores[list(group)].argmax())])
    return sorted(chosen)
